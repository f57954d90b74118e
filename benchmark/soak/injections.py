"""Campaign of numbers that go wrong: NaN, infinities and spikes must not enter an update or a checkpoint."""

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
    start_iterations,
    start_run,
    stderr_tail,
    tiny_argv,
    train,
    wait,
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
SPIKING = ("transformer.wte.weight", "transformer.ln_f.weight")  # no later layer normalises their scale
MODULES = ("transformer.h.0.attn", "transformer.h.0.mlp", "transformer.h.1.ln_1", "transformer.h.1", "transformer.ln_f")
WINDOW = 8  # spike_window: the first update in which spikes are detected
LAST = 13  # iteration
MICRO_STEPS = 2  # per update and rank
TRIALS = 125
WANTED = 100  # runs that recover and finish


class Injection(NamedTuple):
    """What is corrupted, on which rank, in which micro-batch of which iteration.

    target:   loss; loss alone (its gradient stays correct); gradient (of a parameter on this rank, before the
              all-reduce); exchanged gradient (after the all-reduce); weight (before the forward pass); late weight
              (after the update); output (of a module)
    value:    new value of one number of the target; SPIKE multiplies all numbers instead
    name:     of the parameter or module
    position: of the number in its tensor, from 0 to 1
    """

    target: str
    value: float
    rank: int
    iter_num: int
    micro_step: int
    name: str
    position: float


class Plan(NamedTuple):
    """A run and its injections.

    trigger: once; content (whenever the batch of the first time is used again); always (in every pass of that
             iteration)
    fused:   the optimizer skips unstable updates on its own, as on a GPU
    """

    world_size: int
    trigger: str
    fused: bool
    options: dict[str, Any]
    injections: list[Injection]


class Injector(Callback):
    """Carries out a plan in one process, and records the effects.

    known:   fingerprints of the batches that trigger injections, by number of the injection
    kill_at: number of updates after which the process kills itself
    """

    def __init__(self, plan: Plan, known: Mapping[int, str], kill_at: int | None = None) -> None:
        self.plan = plan
        self.known = dict(known)
        self.kill_at = kill_at
        self.changed: list[bool] = []  # by update: whether it changed a weight or a moment
        self.states: list[str] = []  # by update: hash of the state after it
        self.fired: list[tuple[int, int]] = []  # number of the injection, number of updates before it
        self.recoveries: list[tuple[int, dict[str, Any]]] = []  # number of updates before it, entry of the history
        self.checkpoints = 0
        self.bad: list[str] = []  # checkpoints with a non-finite number
        self.armed: dict[str, Injection | None] = {}
        self.before = ""
        self.micro_step = 0

    def on_train_begin(self, trainer: Any) -> None:
        """Wrap the parts of the training step, and add hooks to the model."""
        self.trainer, self.rank, step = trainer, trainer.runtime.rank, trainer.step
        self.parameters = dict(trainer.raw_model.named_parameters())
        self.compute, step.objective = step.objective, self.objective
        trainer.monitor.diagnose.objective = self.objective
        self.execute, step.execute_step = step.execute_step, self.execute_step
        parallel = step.parallel
        parallel.clip, parallel.norm = partial(self.measure, parallel.clip), partial(self.measure, parallel.norm)
        for name, parameter in self.parameters.items():
            parameter.register_hook(partial(self.on_gradient, name))
        for name in MODULES:
            trainer.raw_model.get_submodule(name).register_forward_hook(partial(self.on_output, name))

    def on_step_begin(self, trainer: Any) -> None:
        """Record recoveries since the last update, and kill the process if planned."""
        for entry in trainer.monitor.history[len(self.recoveries) :]:
            self.recoveries.append((len(self.changed), entry))
        if len(self.changed) == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_step_end(self, trainer: Any, result: Any) -> None:
        """Corrupt a weight after the update."""
        if injection := self.armed.pop("late weight", None):
            _corrupt(self.parameters[injection.name].data, injection)

    def on_checkpoint(self, trainer: Any, path: Path) -> None:
        """Check that all numbers in the checkpoint are finite."""
        if trainer.runtime.is_master:
            saved = torch.load(path, weights_only=True)
            tensors = [*saved["model"].values(), *_moments(saved["optimizer"]["state"])]
            self.checkpoints += 1
            self.bad += [] if all(bool(torch.isfinite(tensor).all()) for tensor in tensors) else [path.name]

    def execute_step(self, inspect: Any = None) -> Any:
        """Make an update and record whether it changed anything."""
        self.before, self.micro_step = self.state(), 0
        result = self.execute(inspect)
        self.states.append(self.state())
        self.changed.append(self.states[-1] != self.before)
        return result

    def objective(self, model: Any, batch: Any, train: bool) -> Output:
        """Return the loss of a micro-batch, corrupted if planned. Other planned injections are armed."""
        for number, planned in enumerate(self.plan.injections):
            if self._is_due(number, planned, batch):
                self.fired.append((number, len(self.changed)))
                self.armed[planned.target] = planned
        self.micro_step += 1
        if injection := self.armed.pop("weight", None):
            _corrupt(self.parameters[injection.name].data, injection)
            self.before = self.state()
        output: Output = self.compute(model, batch, train)
        loss = output.loss
        if injection := self.armed.pop("loss", None):
            loss = loss * injection.value
        if injection := self.armed.pop("loss alone", None):
            loss = loss + (loss.detach() * injection.value - loss.detach())
        return output._replace(loss=loss)

    def measure(self, norm: Callable[..., torch.Tensor], parameters: Any, *limits: float) -> torch.Tensor:
        """Return the norm of the gradients, clipped or not, after corrupting one of them if planned."""
        if injection := self.armed.pop("exchanged gradient", None):
            gradient = self.parameters[injection.name].grad
            assert gradient is not None
            _corrupt(gradient, injection)
        return norm(parameters, *limits)

    def on_gradient(self, name: str, gradient: torch.Tensor) -> torch.Tensor | None:
        """Return the corrupted gradient of a parameter on this rank; None leaves it unchanged."""
        injection = self.armed.get("gradient")
        if injection is None or injection.name != name:
            return None
        del self.armed["gradient"]
        return _corrupt(gradient.clone(memory_format=torch.contiguous_format), injection)

    def on_output(self, name: str, module: Any, args: Any, output: torch.Tensor) -> torch.Tensor | None:
        """Return the corrupted output of a module; None leaves it unchanged."""
        injection = self.armed.get("output")
        if injection is None or injection.name != name:
            return None
        del self.armed["output"]
        return output * injection.value

    def _is_due(self, number: int, injection: Injection, batch: Any) -> bool:
        if injection.rank != self.rank:
            return False
        in_iteration = self.trainer.iter_num == injection.iter_num
        is_planned = in_iteration and self.micro_step == injection.micro_step
        if self.plan.trigger == "always":  # the diagnosis repeats the passes, and must find the same numbers
            return in_iteration and self.micro_step >= injection.micro_step
        if self.plan.trigger == "once":
            return is_planned and number not in dict(self.fired)
        content = fingerprint(batch)
        if is_planned:
            self.known.setdefault(number, content)
        return self.known.get(number) == content

    def state(self) -> str:
        """Return a hash of this rank's weights and the optimizer's moments; moments of zeros only are ignored."""
        weights = {name: parameter.data for name, parameter in self.parameters.items()}
        return value_hash(weights, [moment for moment in _moments(self.trainer.step.optimizer.state) if moment.any()])

    def write(self) -> None:
        """Write the recorded effects to rank-N.json in the current folder."""
        names = ("changed", "states", "fired", "recoveries", "checkpoints", "bad", "known")
        record = {name: getattr(self, name) for name in names}
        record |= {"state": self.state(), "history": self.trainer.monitor.history}
        Path(f"rank-{self.rank}.json").write_text(json.dumps(record), encoding="utf-8")


class Run(NamedTuple):
    """Exit statuses of the processes of a run, the record of each rank, and their stderr."""

    folder: Path
    statuses: list[int]
    records: list[dict[str, Any]]
    stderr: str

    @property
    def fired(self) -> list[tuple[int, int]]:
        """Injections on all ranks, in order: number of the injection, number of updates before it."""
        return sorted((tuple(fired) for record in self.records for fired in record["fired"]), key=lambda pair: pair[1])

    @property
    def known(self) -> dict[int, str]:
        """Fingerprints of the batches that triggered injections, by number of the injection."""
        return {int(number): content for record in self.records for number, content in record["known"].items()}


def run(
    plan: Plan, folder: Path, *, known: Mapping[int, str] | None = None, kill_at: int | None = None, **options: Any
) -> Run:
    """Run a plan in a folder and return the result. options: change the plan's, such as init_from=auto to resume"""

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
        statuses = wait(start_run(work, plan.world_size, folder))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("rank-*.json"))]
    return Run(folder, statuses, records, (folder / "stderr.txt").read_text(errors="replace"))


# trials


def trial(seed: int, folder: Path) -> dict[str, Any]:
    """Inject numbers into a run, and check that it recovers, stops, or skips the update as its options say."""
    number, rng = seed // 2, random.Random(seed)
    world_size = 1 + seed % 2
    if number % 10 < 8:
        return _try_recovery(_recoverable_plan(rng, world_size), rng, folder)
    if number % 10 == 8:
        return _try_divergence(_unrecoverable_plan(rng, world_size), folder)
    return _try_skip(rng, world_size, folder) if number // 10 % 2 else _try_stop(rng, world_size, folder)


def _try_recovery(plan: Plan, rng: random.Random, folder: Path) -> dict[str, Any]:
    """Check that a run recovers, that a replay recovers in the same way, and a run that is killed and resumed, too."""
    first = run(plan, folder / "first")
    _check_recovered(plan, first)
    end = run_hash(first.folder / OUT)
    again = run(plan, folder / "again")
    assert run_hash(again.folder / OUT) == end, f"a replay ended in another state: {plan}"
    assert again.records == first.records, f"a replay took other steps: {plan}"
    resumed = 0
    if plan.trigger == "content":
        kill_at = rng.randint(first.fired[0][1] + 1, len(first.records[0]["changed"]) - 1)
        killed = run(plan, folder / "killed", kill_at=kill_at)
        assert -signal.SIGKILL in killed.statuses, f"not killed before update {kill_at}: {killed.statuses}, {plan}"
        finished = run(plan, folder / "killed", known=first.known, init_from="auto")
        assert finished.statuses == [0] * plan.world_size, (
            f"{finished.statuses} after a resume: {_stderr(finished)}, {plan}"
        )
        assert run_hash(finished.folder / OUT) == end, f"another state after a kill before update {kill_at}: {plan}"
        histories = [record["history"] for record in (*finished.records, first.records[0])]
        assert histories == histories[:1] * len(histories), f"other recoveries after a resume: {histories}, {plan}"
        resumed = _has_resumed(finished)
    return {**_details(plan, first), "recovered": 1, "replayed": 1, "resumed": resumed}


def _check_recovered(plan: Plan, result: Run) -> None:
    """Check that all ranks skipped the update of every injection, and then made the same recovery."""
    _check_finite(plan, result)
    assert result.statuses == [0] * plan.world_size, f"ended with {result.statuses}: {_stderr(result)}, {plan}"
    _check_ranks_agree(plan, result)
    record = result.records[0]
    assert [number for number, _ in result.fired] == list(range(len(plan.injections))), f"{result.fired}: {plan}"
    assert len(record["recoveries"]) == len(result.fired), f"{result.fired} led to {record['recoveries']}: {plan}"
    assert [entry for _, entry in record["recoveries"]] == record["history"], f"{record['recoveries']}: {plan}"
    unstable: list[int] = []
    for (number, before), (by, entry) in zip(result.fired, record["recoveries"], strict=True):
        injection = plan.injections[number]
        late = injection.target == "late weight"
        unstable += range(before + late, by)
        assert by - (before + 1) <= late, f"{injection} in update {before} was noticed after {by - 1}: {plan}"
        assert 0 <= entry["iter"] - injection.iter_num <= late, f"{injection} led to {entry}: {plan}"
    _check_skipped(plan, result, unstable)


def _check_ranks_agree(plan: Plan, result: Run) -> None:
    """Check that all ranks recorded the same, and have the same weights."""
    count = len(result.records)
    assert count == plan.world_size, f"{count} ranks wrote a record: {_stderr(result)}, {plan}"
    for key in ("recoveries", "history", "changed", "state"):
        values = [record[key] for record in result.records]
        assert values == values[:1] * plan.world_size, f"{key} differs between ranks: {values}, {plan}"


def _check_finite(plan: Plan, result: Run) -> None:
    """Check that no checkpoint was saved with a non-finite number."""
    bad = [name for record in result.records for name in record["bad"]]
    assert not bad, f"checkpoints with non-finite numbers: {bad}, {plan}"


def _check_skipped(plan: Plan, result: Run, unstable: list[int]) -> None:
    """Check that the unstable updates changed nothing, and that the others led to equal weights on all ranks."""
    for rank, record in enumerate(result.records):
        unchanged = [number for number, changed in enumerate(record["changed"]) if not changed]
        assert unchanged == unstable, f"rank {rank}: updates {unchanged} changed nothing, wanted {unstable}: {plan}"
        pairs = enumerate(zip(record["states"], result.records[0]["states"], strict=True))
        differ = [number for number, (own, first) in pairs if own != first and number not in unstable]
        assert not differ, f"rank {rank} differs from rank 0 after updates {differ}: {plan}"


def _try_divergence(plan: Plan, folder: Path) -> dict[str, Any]:
    """Check that a run without recoveries left ends with status 3, and names the layer."""
    result = run(plan, folder / "first")
    _check_finite(plan, result)
    # one recovery proves that the batch is not the cause, unless the next one lowers the learning rate
    is_constant = plan.options.get("recovery_lr_factor", 1) == 1
    max_recoveries, (injection,) = plan.options["max_recoveries"], plan.injections
    recoveries = min(max_recoveries, 1) if is_constant else max_recoveries
    assert result.statuses == [3] * plan.world_size, f"ended with {result.statuses}: {_stderr(result)}, {plan}"
    assert [len(record["history"]) for record in result.records] == [recoveries] * plan.world_size, f"{plan}"
    reason = (
        "the batch is not the cause" if is_constant and recoveries else f"all {max_recoveries} recoveries are spent"
    )
    assert reason in result.stderr, f"{_stderr(result)}: {plan}"
    _check_diagnosis(injection, result)
    updates = sorted({before for _, before in result.fired} - {len(result.records[0]["changed"])})
    _check_skipped(plan, result, updates)
    return _details(plan, result)


def _try_stop(rng: random.Random, world_size: int, folder: Path) -> dict[str, Any]:
    """Check that on_instability=stop ends a run with status 3, and that the run can be resumed as if it had not."""
    plan = _unrecoverable_plan(rng, world_size, on_instability="stop")
    result = run(plan, folder / "first")
    _check_finite(plan, result)
    assert result.statuses == [3] * world_size, f"ended with {result.statuses}: {_stderr(result)}, {plan}"
    assert f"iteration {plan.injections[0].iter_num}: " in result.stderr, f"{_stderr(result)}: {plan}"
    _check_diagnosis(plan.injections[0], result)
    _check_skipped(plan, result, [result.fired[0][1]])
    resumed = run(plan._replace(injections=[]), folder / "first", init_from="auto")
    assert resumed.statuses == [0] * world_size, f"{resumed.statuses} after a resume: {_stderr(resumed)}, {plan}"
    undisturbed = run(plan._replace(injections=[]), folder / "undisturbed")
    assert run_hash(resumed.folder / OUT) == run_hash(undisturbed.folder / OUT), f"another state after a stop: {plan}"
    return {**_details(plan, result), "resumed": _has_resumed(resumed)}


def _check_diagnosis(injection: Injection, result: Run) -> None:
    """Check that the diagnosis names what was corrupted."""
    wanted = {
        "weight": f"parameters that are not finite, 1 of {len(_parameter_names())}: {injection.name} (1 of ",
        "gradient": f": the backward pass met {injection.name} first",
        "output": f"the first output that is not finite: {injection.name} (",
    }[injection.target]
    assert result.stderr.count(wanted) == len(result.statuses), f"{injection}, but the diagnosis says {_stderr(result)}"


def _try_skip(rng: random.Random, world_size: int, folder: Path) -> dict[str, Any]:
    """Check that on_instability=skip skips unstable updates, and ends the run after too many in a row."""
    count, first = rng.randint(1, 5), rng.randint(0, 8)
    choices = [_injection(rng, world_size, TARGETS[:4], VALUES[:3]) for _ in range(count)]
    injections = [choice._replace(iter_num=first + number) for number, choice in enumerate(choices)]
    plan = Plan(world_size, "once", rng.random() < 0.25, _options(rng, world_size, on_instability="skip"), injections)
    result, again = run(plan, folder / "first"), run(plan, folder / "again")
    _check_finite(plan, result)
    status = 0 if count <= 3 else 3
    assert result.statuses == [status] * world_size, f"{result.statuses}, wanted {status}: {_stderr(result)}, {plan}"
    _check_ranks_agree(plan, result)
    assert result.records == again.records, f"a replay took other steps: {plan}"
    if status == 0:
        assert run_hash(result.folder / OUT) == run_hash(again.folder / OUT), f"a replay ended in another state: {plan}"
    last = len(result.records[0]["changed"])  # the update that ended the run is not finished
    _check_skipped(plan, result, [before for _, before in result.fired if before < last])
    return {**_details(plan, result), "replayed": 1}


# plans


def _recoverable_plan(rng: random.Random, world_size: int) -> Plan:
    """Return a plan of one to three injections, each of which needs its own recovery."""
    trigger = rng.choice(("once", "content"))
    targets = TARGETS if trigger == "once" else TARGETS[:5]  # a late weight is noticed with the batch after it
    iterations = _separate_iterations(rng, rng.choice((1, 1, 2, 3)))
    injections = [_injection(rng, world_size, targets, VALUES)._replace(iter_num=number) for number in iterations]
    # spikes are detected only with a full window
    injections = [
        injection._replace(value=rng.choice(VALUES[:3]))
        if injection.value == SPIKE and injection.iter_num < WINDOW
        else injection
        for injection in injections
    ]
    has_spikes = any(injection.value == SPIKE for injection in injections)
    spikes = {"spike_threshold": 12, "spike_window": WINDOW} if has_spikes else {}
    recovery = {"recovery_skip": rng.choice((0, 0, 1)), "recovery_lr_factor": rng.choice((1.0, 0.5))}
    return Plan(world_size, trigger, rng.random() < 0.25, _options(rng, world_size, **spikes, **recovery), injections)


def _unrecoverable_plan(rng: random.Random, world_size: int, **options: Any) -> Plan:
    """Return a plan with an injection in every pass of its iteration, into a target that a diagnosis can name."""
    injection = _injection(rng, world_size, ("weight", "gradient", "output"), VALUES[:3])
    if injection.target == "output":
        injection = injection._replace(name=rng.choice(MODULES))
    options = {"max_recoveries": rng.randint(0, 2), **options}
    last = injection._replace(micro_step=MICRO_STEPS - 1)
    return Plan(world_size, "always", rng.random() < 0.25, _options(rng, world_size, **options), [last])


def _injection(rng: random.Random, world_size: int, targets: tuple[str, ...], values: tuple[float, ...]) -> Injection:
    target, value, rank = rng.choice(targets), rng.choice(values), rng.randrange(world_size)
    if target == "late weight" and value == SPIKE:  # a large weight cannot be detected before the forward pass
        value = math.nan
    micro_step = rng.randrange(MICRO_STEPS)
    name = rng.choice(SPIKING if target == "weight" and value == SPIKE else _parameter_names())
    return Injection(target, value, rank, rng.randint(0, LAST), micro_step, name, rng.random())


def _options(rng: random.Random, world_size: int, **options: Any) -> dict[str, Any]:
    return {
        "gradient_accumulation_steps": MICRO_STEPS * world_size,
        "save_interval": rng.choice((0, 1, 2, 3)),
        "async_save": rng.random() < 0.3,
        "grad_clip": rng.choice((1.0, 1.0, 0.0)),
        **options,
    }


def _separate_iterations(rng: random.Random, count: int) -> list[int]:
    """Return iterations in ascending order, no two of which are adjacent."""
    numbers = sorted(rng.sample(range(LAST + 2 - count), count))
    return [number + position for position, number in enumerate(numbers)]


@cache
def _parameter_names() -> tuple[str, ...]:
    """Return the names of the tiny model's parameters."""
    with redirect_stdout(StringIO()):  # the model prints its size
        model = GPT(GPTConfig(n_layer=2, n_head=2, n_embd=32, block_size=16, vocab_size=17, bias=False))
    return tuple(name for name, _ in model.named_parameters())


# numbers


def _corrupt(tensor: torch.Tensor, injection: Injection) -> torch.Tensor:
    """Corrupt one number of a tensor in place, or for a spike all numbers, and return the tensor."""
    if injection.value == SPIKE:
        return tensor.mul_(SPIKE)
    tensor.view(-1)[int(injection.position * tensor.numel())] = injection.value
    return tensor


def _moments(state: Mapping[Any, dict[str, Any]]) -> list[torch.Tensor]:
    return [value for moments in state.values() for value in moments.values() if torch.is_tensor(value)]


def _details(plan: Plan, result: Run) -> dict[str, Any]:
    return {
        "world_size": plan.world_size,
        "targets": [plan.injections[number].target for number, _ in result.fired],
        "recoveries": len(result.records[0]["history"]),
        "checkpoints": sum(record["checkpoints"] for record in result.records),
        "statuses": result.statuses,
    }


def _has_resumed(result: Run) -> int:
    """Return 1 if the last start resumed from a checkpoint, 0 if there was none yet."""
    return int(start_iterations(result.folder)[-1] > 0)


def _stderr(result: Run) -> str:
    return stderr_tail(result.folder, 12)


def _summary(records: list[dict[str, Any]]) -> str:
    """Return the counts of injections and effects. Raises AssertionError if a full campaign has too few recoveries."""
    details = [record["details"] for record in records]
    targets = Counter(target for detail in details for target in detail["targets"])
    total = Counter({key: sum(detail.get(key, 0) for detail in details) for key in ("recoveries", "checkpoints")})
    counted = ", ".join(f"{count} {target}" for target, count in sorted(targets.items()))
    recovered, replayed, resumed = (
        sum(detail.get(key, 0) for detail in details) for key in ("recovered", "replayed", "resumed")
    )
    is_full = len(records) >= TRIALS
    assert recovered >= WANTED or not is_full, f"only {recovered} runs recovered, wanted {WANTED}"
    return (
        f"injected: {counted}; {total['recoveries']} recoveries, {recovered} runs recovered, {replayed} replayed, "
        f"{resumed} resumed, {total['checkpoints']} checkpoints, none of them bad"
    )


CAMPAIGN = Campaign("injections", TRIALS, trial, _summary)
