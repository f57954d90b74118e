"""NaN, infinities and spikes are put into losses, gradients and weights: no update, no checkpoint may take them in."""

import json
import math
import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from functools import cache, partial
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmark.soak.campaign import (
    OUT,
    Campaign,
    StartRecorder,
    expect_resume,
    in_child,
    ranks,
    start_iterations,
    stderr_tail,
    tiny_argv,
    train,
    write_tiny_data,
)
from core import Callback
from core.batch import fingerprint
from core.objective import Output
from model import GPT, GPTConfig
from tools.run_hash import run_hash, value_hash

SPIKE = 1e4
VALUES = (math.nan, math.inf, -math.inf, SPIKE)
TARGETS = ("loss", "loss alone", "gradient", "exchanged gradient", "weight", "late weight")
SPIKING = ("transformer.wte.weight", "transformer.ln_f.weight")  # nothing behind them takes their scale away again
MODULES = ("transformer.h.0.attn", "transformer.h.0.mlp", "transformer.h.1.ln_1", "transformer.h.1", "transformer.ln_f")
WINDOW = 8  # updates that spikes are looked for in: from there on
LAST = 13  # iteration
MICRO_STEPS = 2  # per update and rank
TRIALS = 125
WANTED = 100  # of these, runs that recover and come to their end


class Injection(NamedTuple):
    """What goes wrong, on which rank, in which micro-batch of which iteration.

    target: loss; loss alone (its gradient stays sound); gradient (of a parameter, on this rank, before it is
            exchanged); exchanged gradient; weight (before the forward pass); late weight (after the update); output (of
            a module)
    value:  what a number of the target becomes; SPIKE multiplies all of it
    name:   of the parameter, or of the module
    """

    target: str
    value: float
    rank: int
    iter_num: int
    micro_step: int
    name: str
    place: float  # of the number in a tensor, from 0 to 1


class Plan(NamedTuple):
    """A run, and all that goes wrong in it.

    trigger: once; content (whenever the batch of the first time comes again); always (in every pass of that iteration)
    fused:   the optimizer leaves updates out by itself, as on a GPU
    """

    world_size: int
    trigger: str
    fused: bool
    options: dict[str, Any]
    injections: list[Injection]


class Injector(Callback):
    """Makes the plan come true in one process, and writes down what came of it.

    known:   fingerprints of the batches that trigger injections, by their number
    kill_at: updates after which the process kills itself
    """

    def __init__(self, plan: Plan, known: Mapping[int, str], kill_at: int | None = None) -> None:
        self.plan = plan
        self.known = dict(known)
        self.kill_at = kill_at
        self.changed: list[bool] = []  # by update: whether it changed a weight or a moment
        self.states: list[str] = []  # by update: what it led to
        self.fired: list[tuple[int, int]] = []  # number of the injection, updates made before
        self.noticed: list[tuple[int, dict[str, Any]]] = []  # updates made before, what was done
        self.checkpoints = 0
        self.bad: list[str] = []  # checkpoints with a number that is not finite
        self.armed: dict[str, Injection | None] = {}
        self.before = ""
        self.micro_step = 0

    def on_train_begin(self, trainer: Any) -> None:
        """Put itself between the step and its parts."""
        self.trainer, self.rank, step = trainer, trainer.runtime.rank, trainer.step
        self.parameters = dict(trainer.raw_model.named_parameters())
        self.compute, step.objective = step.objective, self.objective
        trainer.monitor.diagnose.objective = self.objective
        self.execute, step.execute_step = step.execute_step, self.execute_step
        spread = step.parallel
        spread.clip, spread.norm = partial(self.measure, spread.clip), partial(self.measure, spread.norm)
        for name, parameter in self.parameters.items():
            parameter.register_hook(partial(self.on_gradient, name))
        for name in MODULES:
            trainer.raw_model.get_submodule(name).register_forward_hook(partial(self.on_output, name))

    def on_step_begin(self, trainer: Any) -> None:
        """Note recoveries made since the last update, and perhaps die."""
        for entry in trainer.monitor.history[len(self.noticed) :]:
            self.noticed.append((len(self.changed), entry))
        if len(self.changed) == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_step_end(self, trainer: Any, result: Any) -> None:
        """Spoil a weight after the update."""
        if injection := self.armed.pop("late weight", None):
            _spoil(self.parameters[injection.name].data, injection)

    def on_checkpoint(self, trainer: Any, path: Path) -> None:
        """Read the checkpoint again, and look at every number in it."""
        if trainer.runtime.is_master:
            saved = torch.load(path, weights_only=True)
            tensors = [*saved["model"].values(), *_moments(saved["optimizer"]["state"])]
            self.checkpoints += 1
            self.bad += [] if all(bool(torch.isfinite(tensor).all()) for tensor in tensors) else [path.name]

    def execute_step(self, inspect: Any = None) -> Any:
        """Make an update, and note whether it changed anything."""
        self.before, self.micro_step = self.state(), 0
        result = self.execute(inspect)
        self.states.append(self.state())
        self.changed.append(self.states[-1] != self.before)
        return result

    def objective(self, model: Any, batch: Any, train: bool) -> Output:
        """Return the loss of a micro-batch, spoilt if its turn has come; arm what spoils something else."""
        for number, planned in enumerate(self.plan.injections):
            if self._is_due(number, planned, batch):
                self.fired.append((number, len(self.changed)))
                self.armed[planned.target] = planned
        self.micro_step += 1
        if injection := self.armed.pop("weight", None):
            _spoil(self.parameters[injection.name].data, injection)
            self.before = self.state()
        output: Output = self.compute(model, batch, train)
        loss = output.loss
        if injection := self.armed.pop("loss", None):
            loss = loss * injection.value
        if injection := self.armed.pop("loss alone", None):
            loss = loss + (loss.detach() * injection.value - loss.detach())
        return output._replace(loss=loss)

    def measure(self, norm: Callable[..., torch.Tensor], parameters: Any, *limits: float) -> torch.Tensor:
        """Return the norm of the gradients, clipped or not, after one of them was spoilt."""
        if injection := self.armed.pop("exchanged gradient", None):
            gradient = self.parameters[injection.name].grad
            assert gradient is not None
            _spoil(gradient, injection)
        return norm(parameters, *limits)

    def on_gradient(self, name: str, gradient: torch.Tensor) -> torch.Tensor | None:
        """Return the spoilt gradient of a parameter on this rank."""
        injection = self.armed.get("gradient")
        if injection is None or injection.name != name:
            return None
        del self.armed["gradient"]
        return _spoil(gradient.clone(memory_format=torch.contiguous_format), injection)

    def on_output(self, name: str, module: Any, args: Any, output: torch.Tensor) -> torch.Tensor | None:
        """Return the spoilt output of a module."""
        injection = self.armed.get("output")
        if injection is None or injection.name != name:
            return None
        del self.armed["output"]
        return output * injection.value

    def _is_due(self, number: int, injection: Injection, batch: Any) -> bool:
        if injection.rank != self.rank:
            return False
        in_iteration = self.trainer.iter_num == injection.iter_num
        here = in_iteration and self.micro_step == injection.micro_step
        if self.plan.trigger == "always":  # a diagnosis looks at the batch once more: it must find what was there
            return in_iteration and self.micro_step >= injection.micro_step
        if self.plan.trigger == "once":
            return here and number not in dict(self.fired)
        content = fingerprint(batch)
        if here:
            self.known.setdefault(number, content)
        return self.known.get(number) == content

    def state(self) -> str:
        """Return a hash of this rank's weights and the optimizer's moments; moments that are all zero count as none."""
        weights = {name: parameter.data for name, parameter in self.parameters.items()}
        return value_hash(weights, [moment for moment in _moments(self.trainer.step.optimizer.state) if moment.any()])

    def write(self) -> None:
        """Write the record to rank-N.json in the current folder."""
        names = ("changed", "states", "fired", "noticed", "checkpoints", "bad", "known")
        record = {name: getattr(self, name) for name in names}
        record |= {"state": self.state(), "history": self.trainer.monitor.history}
        Path(f"rank-{self.rank}.json").write_text(json.dumps(record), encoding="utf-8")


class Run(NamedTuple):
    """How the processes of a run ended, what each has written down, and what they wrote to stderr."""

    folder: Path
    statuses: list[int]
    records: list[dict[str, Any]]
    said: str

    @property
    def fired(self) -> list[tuple[int, int]]:
        """What was injected on any rank, in order: number of the injection, updates made before."""
        return sorted((tuple(fired) for record in self.records for fired in record["fired"]), key=lambda pair: pair[1])

    @property
    def known(self) -> dict[int, str]:
        """Fingerprints of the batches that triggered injections."""
        return {int(number): content for record in self.records for number, content in record["known"].items()}


def run(
    plan: Plan, folder: Path, *, known: Mapping[int, str] | None = None, kill_at: int | None = None, **options: Any
) -> Run:
    """Make a run with the plan's injections in a folder; one that is there goes on if `options` say so."""

    def work() -> None:
        if plan.fused:
            configure: Callable[..., Any] = GPT.configure_optimizers
            GPT.configure_optimizers = lambda *args: configure(*args[:-1], "cuda")  # type: ignore[method-assign]
        injector = Injector(plan, known or {}, kill_at)
        try:
            train(tiny_argv(**{**plan.options, **options}), [StartRecorder(), injector])
        finally:
            injector.write()

    write_tiny_data(folder)
    for path in [*folder.glob("rank-*.json"), *folder.glob("stderr.txt")]:
        path.unlink()
    with expect_resume(folder):
        statuses = ranks(work, plan.world_size, folder) if plan.world_size > 1 else [in_child(work, folder)]
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("rank-*.json"))]
    return Run(folder, statuses, records, (folder / "stderr.txt").read_text(errors="replace"))


# trials


def trial(seed: int, folder: Path) -> dict[str, Any]:
    """Let things go wrong in a run, and see that it recovers, twice the same; or gives up, and says why."""
    turn, rng = seed // 2, random.Random(seed)
    world_size = 1 + seed % 2
    if turn % 10 < 8:
        return _recovers(_recoverable(rng, world_size), rng, folder)
    if turn % 10 == 8:
        return _gives_up(_hopeless(rng, world_size), folder)
    return _skips(rng, world_size, folder) if turn // 10 % 2 else _stops(rng, world_size, folder)


def _recovers(plan: Plan, rng: random.Random, folder: Path) -> dict[str, Any]:
    """See that a run recovers, does so again in the same way, and when it is killed afterwards and resumed."""
    first = run(plan, folder / "first")
    _check_recovered(plan, first)
    end = run_hash(first.folder / OUT)
    again = run(plan, folder / "again")
    assert run_hash(again.folder / OUT) == end, f"a replay came to another end: {plan}"
    assert again.records == first.records, f"a replay went another way: {plan}"
    resumed = 0
    if plan.trigger == "content":
        kill_at = rng.randint(first.fired[0][1] + 1, len(first.records[0]["changed"]) - 1)
        killed = run(plan, folder / "killed", kill_at=kill_at)
        assert -signal.SIGKILL in killed.statuses, f"not killed before update {kill_at}: {killed.statuses}, {plan}"
        finished = run(plan, folder / "killed", known=first.known, init_from="auto")
        assert finished.statuses == [0] * plan.world_size, (
            f"{finished.statuses} after a resume: {_words(finished)}, {plan}"
        )
        assert run_hash(finished.folder / OUT) == end, f"killed before update {kill_at}, resumed, another end: {plan}"
        histories = [record["history"] for record in (*finished.records, first.records[0])]
        assert histories == histories[:1] * len(histories), f"a resume recovered otherwise: {histories}, {plan}"
        resumed = _resumed(finished)
    return {**_facts(plan, first), "recovered": 1, "replayed": 1, "resumed": resumed}


def _check_recovered(plan: Plan, made: Run) -> None:
    """Raise unless every injection was kept out on all ranks, and followed by one recovery on all of them alike."""
    _check_finite(plan, made)
    assert made.statuses == [0] * plan.world_size, f"ended with {made.statuses}: {_words(made)}, {plan}"
    _check_alike(plan, made)
    record = made.records[0]
    assert [number for number, _ in made.fired] == list(range(len(plan.injections))), f"{made.fired}: {plan}"
    assert len(record["noticed"]) == len(made.fired), f"{made.fired} led to {record['noticed']}: {plan}"
    assert [entry for _, entry in record["noticed"]] == record["history"], f"{record['noticed']}: {plan}"
    unsound: list[int] = []
    for (number, before), (by, entry) in zip(made.fired, record["noticed"], strict=True):
        injection = plan.injections[number]
        late = injection.target == "late weight"
        unsound += range(before + late, by)
        assert by - (before + 1) <= late, f"{injection} in update {before} was noticed after {by - 1}: {plan}"
        assert 0 <= entry["iter"] - injection.iter_num <= late, f"{injection} was taken for {entry}: {plan}"
    _check_suppressed(plan, made, unsound)


def _check_alike(plan: Plan, made: Run) -> None:
    """Raise unless all ranks did the same and have the same weights."""
    assert len(made.records) == plan.world_size, f"{len(made.records)} ranks left a record: {_words(made)}, {plan}"
    for key in ("noticed", "history", "changed", "state"):
        values = [record[key] for record in made.records]
        assert values == values[:1] * plan.world_size, f"{key} differs between ranks: {values}, {plan}"


def _check_finite(plan: Plan, made: Run) -> None:
    """Raise if a checkpoint was ever written with a number that is not finite."""
    bad = [name for record in made.records for name in record["bad"]]
    assert not bad, f"checkpoints with numbers that are not finite: {bad}, {plan}"


def _check_suppressed(plan: Plan, made: Run, unsound: list[int]) -> None:
    """Raise unless all updates but the unsound ones changed something, to the same weights on every rank."""
    for rank, record in enumerate(made.records):
        unchanged = [number for number, changed in enumerate(record["changed"]) if not changed]
        assert unchanged == unsound, f"rank {rank}: updates {unchanged} changed nothing, wanted {unsound}: {plan}"
        pairs = enumerate(zip(record["states"], made.records[0]["states"], strict=True))
        differ = [number for number, (own, first) in pairs if own != first and number not in unsound]
        assert not differ, f"rank {rank} has other weights than rank 0 after updates {differ}: {plan}"


def _gives_up(plan: Plan, folder: Path) -> dict[str, Any]:
    """See that a run whose recoveries are spent ends with status 3, and names the layer."""
    made = run(plan, folder / "first")
    _check_finite(plan, made)
    budget, (injection,) = plan.options["max_recoveries"], plan.injections
    assert made.statuses == [3] * plan.world_size, f"ended with {made.statuses}: {_words(made)}, {plan}"
    assert [len(record["history"]) for record in made.records] == [budget] * plan.world_size, f"{plan}"
    assert f"all {budget} recoveries are spent" in made.said, f"{_words(made)}: {plan}"
    _check_named(injection, made)
    updates = sorted({before for _, before in made.fired} - {len(made.records[0]["changed"])})
    _check_suppressed(plan, made, updates)
    return _facts(plan, made)


def _stops(rng: random.Random, world_size: int, folder: Path) -> dict[str, Any]:
    """See that on_instability=stop ends a run with status 3, and that its checkpoints lead to the usual end."""
    plan = _hopeless(rng, world_size, on_instability="stop")
    made = run(plan, folder / "first")
    _check_finite(plan, made)
    assert made.statuses == [3] * world_size, f"ended with {made.statuses}: {_words(made)}, {plan}"
    assert f"iteration {plan.injections[0].iter_num}: " in made.said, f"{_words(made)}: {plan}"
    _check_named(plan.injections[0], made)
    _check_suppressed(plan, made, [made.fired[0][1]])
    resumed = run(plan._replace(injections=[]), folder / "first", init_from="auto")
    assert resumed.statuses == [0] * world_size, f"{resumed.statuses} after a resume: {_words(resumed)}, {plan}"
    usual = run(plan._replace(injections=[]), folder / "usual")
    assert run_hash(resumed.folder / OUT) == run_hash(usual.folder / OUT), f"not the usual end after a stop: {plan}"
    return {**_facts(plan, made), "resumed": _resumed(resumed)}


def _check_named(injection: Injection, made: Run) -> None:
    """Raise unless the diagnosis names what was spoilt."""
    wanted = {
        "weight": f"parameters that are not finite, 1 of {len(_parameters())}: {injection.name} (1 of ",
        "gradient": f": the backward pass met {injection.name} first",
        "output": f"the first output that is not finite: {injection.name} (",
    }[injection.target]
    assert made.said.count(wanted) == len(made.statuses), f"{injection}, but the diagnosis says {_words(made)}"


def _skips(rng: random.Random, world_size: int, folder: Path) -> dict[str, Any]:
    """See that a run with on_instability=skip leaves out what is unsound, and gives up after too many in a row."""
    count, first = rng.randint(1, 5), rng.randint(0, 8)
    choices = [_injection(rng, world_size, TARGETS[:4], VALUES[:3]) for _ in range(count)]
    injections = [choice._replace(iter_num=first + number) for number, choice in enumerate(choices)]
    plan = Plan(world_size, "once", rng.random() < 0.25, _options(rng, world_size, on_instability="skip"), injections)
    made, again = run(plan, folder / "first"), run(plan, folder / "again")
    _check_finite(plan, made)
    end = 0 if count <= 3 else 3
    assert made.statuses == [end] * world_size, f"ended with {made.statuses}, wanted {end}: {_words(made)}, {plan}"
    _check_alike(plan, made)
    assert made.records == again.records, f"a replay went another way: {plan}"
    if end == 0:
        assert run_hash(made.folder / OUT) == run_hash(again.folder / OUT), f"a replay came to another end: {plan}"
    last = len(made.records[0]["changed"])  # that update was judged, but not finished, if the run gave up
    _check_suppressed(plan, made, [before for _, before in made.fired if before < last])
    return {**_facts(plan, made), "replayed": 1}


# plans


def _recoverable(rng: random.Random, world_size: int) -> Plan:
    """Return one to three injections, far enough apart that each needs a recovery of its own."""
    trigger = rng.choice(("once", "content"))
    targets = TARGETS if trigger == "once" else TARGETS[:5]  # a late weight is blamed on the batch after
    iterations = _apart(rng, rng.choice((1, 1, 2, 3)))
    made = [_injection(rng, world_size, targets, VALUES)._replace(iter_num=number) for number in iterations]
    # spikes are looked for once the window is full
    made = [
        injection._replace(value=rng.choice(VALUES[:3]))
        if injection.value == SPIKE and injection.iter_num < WINDOW
        else injection
        for injection in made
    ]
    looks = any(injection.value == SPIKE for injection in made)
    spikes = {"spike_threshold": 12, "spike_window": WINDOW} if looks else {}
    recovery = {"recovery_skip": rng.choice((0, 0, 1)), "recovery_lr_factor": rng.choice((1.0, 0.5))}
    return Plan(world_size, trigger, rng.random() < 0.25, _options(rng, world_size, **spikes, **recovery), made)


def _hopeless(rng: random.Random, world_size: int, **options: Any) -> Plan:
    """Return an injection that comes in every pass of its iteration, into something that a diagnosis can name."""
    injection = _injection(rng, world_size, ("weight", "gradient", "output"), VALUES[:3])
    if injection.target == "output":
        injection = injection._replace(name=rng.choice(MODULES))
    options = {"max_recoveries": rng.randint(0, 2), **options}
    last = injection._replace(micro_step=MICRO_STEPS - 1)
    return Plan(world_size, "always", rng.random() < 0.25, _options(rng, world_size, **options), [last])


def _injection(rng: random.Random, world_size: int, targets: tuple[str, ...], values: tuple[float, ...]) -> Injection:
    target, value, rank = rng.choice(targets), rng.choice(values), rng.randrange(world_size)
    if target == "late weight" and value == SPIKE:  # nobody can tell a large weight by the weight alone
        value = math.nan
    micro_step = rng.randrange(MICRO_STEPS)
    name = rng.choice(SPIKING if target == "weight" and value == SPIKE else _parameters())
    return Injection(target, value, rank, rng.randint(0, LAST), micro_step, name, rng.random())


def _options(rng: random.Random, world_size: int, **options: Any) -> dict[str, Any]:
    return {
        "gradient_accumulation_steps": MICRO_STEPS * world_size,
        "save_interval": rng.choice((0, 1, 2, 3)),
        "async_save": rng.random() < 0.3,
        "grad_clip": rng.choice((1.0, 1.0, 0.0)),
        **options,
    }


def _apart(rng: random.Random, count: int) -> list[int]:
    """Return iterations in ascending order, no two of them neighbours."""
    spread = sorted(rng.sample(range(LAST + 2 - count), count))
    return [number + position for position, number in enumerate(spread)]


@cache
def _parameters() -> tuple[str, ...]:
    """Return the names of the tiny model's parameters."""
    with redirect_stdout(StringIO()):  # it tells its size
        model = GPT(GPTConfig(n_layer=2, n_head=2, n_embd=32, block_size=16, vocab_size=17, bias=False))
    return tuple(name for name, _ in model.named_parameters())


# numbers


def _spoil(tensor: torch.Tensor, injection: Injection) -> torch.Tensor:
    """Spoil one number of a tensor, or with a spike all of it, in place, and return the tensor."""
    if injection.value == SPIKE:
        return tensor.mul_(SPIKE)
    tensor.view(-1)[int(injection.place * tensor.numel())] = injection.value
    return tensor


def _moments(state: Mapping[Any, dict[str, Any]]) -> list[torch.Tensor]:
    return [value for moments in state.values() for value in moments.values() if torch.is_tensor(value)]


def _facts(plan: Plan, made: Run) -> dict[str, Any]:
    return {
        "world_size": plan.world_size,
        "targets": [plan.injections[number].target for number, _ in made.fired],
        "recoveries": len(made.records[0]["history"]),
        "checkpoints": sum(record["checkpoints"] for record in made.records),
        "statuses": made.statuses,
    }


def _resumed(made: Run) -> int:
    """Return 1 where the last start went on from a checkpoint, 0 where there was none yet."""
    return int(start_iterations(made.folder)[-1] > 0)


def _words(made: Run) -> str:
    return stderr_tail(made.folder, 12)


def _summary(records: list[dict[str, Any]]) -> str:
    """Count what was injected, and what came of it. Raises AssertionError when a full campaign recovered too seldom."""
    details = [record["details"] for record in records]
    targets = Counter(target for detail in details for target in detail["targets"])
    total = Counter({key: sum(detail.get(key, 0) for detail in details) for key in ("recoveries", "checkpoints")})
    counted = ", ".join(f"{count} {target}" for target, count in sorted(targets.items()))
    recovered, replayed, resumed = (
        sum(detail.get(key, 0) for detail in details) for key in ("recovered", "replayed", "resumed")
    )
    full = len(records) >= TRIALS
    assert recovered >= WANTED or not full, f"only {recovered} runs recovered, wanted {WANTED}"
    return (
        f"injected: {counted}; {total['recoveries']} recoveries, {recovered} runs recovered, {replayed} replayed, "
        f"{resumed} resumed, {total['checkpoints']} checkpoints, none of them bad"
    )


CAMPAIGN = Campaign("injections", TRIALS, trial, _summary)
