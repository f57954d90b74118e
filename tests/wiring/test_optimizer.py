"""The optimizer with the state of a resumed run, and the learning-rate schedule."""

import itertools
from typing import Any

import pytest
import torch

import core
import train
import wiring
from config.options import Options
from extras.freezing import freeze_transformer
from model import GPT, GPTConfig
from tests.comparing import assert_same
from wiring.data import open_data
from wiring.optimizer import make_optimizer, non_cosine_schedule, surprises

TINY_SCORER: dict[str, Any] = dict(
    n_layer=1, n_head=1, n_embd=8, block_size=8, vocab_size=20, mode="sequence_scorer", cls_token_id=19,
    attention_type="bidirectional",
)  # fmt: skip


@pytest.mark.parametrize("was_frozen", [False, True])
def test_a_run_with_other_frozen_parameters_is_not_resumed(run: core.Runtime, was_frozen: bool) -> None:
    def make_model(frozen: bool) -> tuple[Any, torch.optim.Optimizer]:
        model = GPT(GPTConfig(**TINY_SCORER))
        if frozen:
            freeze_transformer(model)
        return model, model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cpu")

    _, saved_optimizer = make_model(was_frozen)
    config = {"training_type": "sequence_scoring", "freeze_transformer": was_frozen, "trainable": ""}
    model, optimizer = make_model(not was_frozen)
    options = Options(training_type="sequence_scoring", freeze_transformer=not was_frozen, out_dir="mine")

    with pytest.raises(core.CheckpointError) as error:
        make_optimizer(
            options, run, model, core.Replicated(), {"optimizer": saved_optimizer.state_dict(), "config": config}
        )
    assert str(error.value).endswith(
        f" tensors, this model's has {[len(group['params']) for group in optimizer.param_groups]}: it was saved for "
        f"another model; its run had freeze_transformer={was_frozen}: resume it with that, or begin a new run from it "
        "with init_from_checkpoint=mine and another out_dir"
    )


def test_the_optimizer_of_another_model_is_refused(run: core.Runtime) -> None:
    model = GPT(GPTConfig(**TINY_SCORER))
    other = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))]).state_dict()

    with pytest.raises(
        core.CheckpointError,
        match="it was saved for another model; to go on from its weights with fresh moments, begin a new run from it "
        "with init_from_checkpoint=out and another out_dir$",
    ):
        make_optimizer(Options(), run, model, core.Replicated(), {"optimizer": other, "config": {}})


def test_without_an_optimizer_in_the_checkpoint_the_moments_are_fresh(run: core.Runtime) -> None:
    model = GPT(GPTConfig(**TINY_SCORER))

    optimizer = make_optimizer(Options(), run, model, core.Replicated(), {"optimizer": None, "config": {}})

    assert not optimizer.state and len(optimizer.param_groups) == 2


class OldGPT(GPT):
    """A model.py of nanoGPT before February 2023."""

    def configure_optimizers(self, weight_decay: float, learning_rate: float, betas: Any) -> Any:  # type: ignore[override]
        return torch.optim.AdamW(self.parameters(), lr=learning_rate, betas=betas, weight_decay=weight_decay)


def test_a_model_may_make_its_optimizer_without_the_device(run: core.Runtime) -> None:
    options = Options(learning_rate=0.5, beta1=0.7, weight_decay=0.3)

    (group,) = make_optimizer(options, run, OldGPT(GPTConfig(**TINY_SCORER)), core.Replicated(), None).param_groups

    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.5, (0.7, 0.95), 0.3)


class WrappedGPT(GPT):
    """A model.py whose method hands its arguments on."""

    def configure_optimizers(self, *args: Any) -> Any:
        return super().configure_optimizers(*args)


def test_a_method_that_takes_any_arguments_gets_the_device(run: core.Runtime) -> None:
    optimizer = make_optimizer(Options(), run, WrappedGPT(GPTConfig(**TINY_SCORER)), core.Replicated(), None)

    assert len(optimizer.param_groups) == 2


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [  # at iterations 0, 4, 10 and 20; peak 1, floor 0.1, warm-up 4, decay until 10
        ("linear", [0.2, 1.0, 0.1, 0.1]),
        ("constant", [0.2, 1.0, 1.0, 1.0]),
        ("inverse_sqrt", [0.2, 1.0, (5 / 11) ** 0.5, (5 / 21) ** 0.5]),
        ("wsd", [0.2, 1.0, 0.1, 0.1]),
        ("warmup_only", [0.2, 1.0, 0.1 + 0.9 * 100 / 102, 0.1 + 0.9 * 100 / 112]),
        ("adaptive", [0.2, 1.0, 1.0, 1.0]),
    ],
)
def test_each_schedule_gets_its_options(schedule: str, rates: list[float]) -> None:
    flags = dict(lr_schedule=schedule, learning_rate=1.0, min_lr=0.1, warmup_iters=4, lr_decay_iters=10)

    scheduler = non_cosine_schedule(Options(**flags))  # type: ignore[arg-type]

    assert scheduler is not None
    assert [scheduler.get_lr(iter_num) for iter_num in (0, 4, 10, 20)] == pytest.approx(rates)


@pytest.mark.parametrize(("wsd_decay_iters", "rates"), [(0, [1.0, 1.0, 0.5]), (40, [1.0, 0.5, 0.125])])
def test_wsd_decays_over_its_own_option_or_a_tenth(wsd_decay_iters: int, rates: list[float]) -> None:
    flags = dict(lr_schedule="wsd", learning_rate=1.0, min_lr=0.0, warmup_iters=4, lr_decay_iters=100)

    scheduler = non_cosine_schedule(Options(**flags, wsd_decay_iters=wsd_decay_iters))  # type: ignore[arg-type]

    assert scheduler is not None
    assert [scheduler.get_lr(iter_num) for iter_num in (60, 80, 95)] == pytest.approx(rates)


def test_the_adaptive_schedule_gets_patience_factor_and_min_lr() -> None:
    flags = dict(lr_schedule="adaptive", learning_rate=1.0, min_lr=0.2, warmup_iters=0, lr_patience=2, lr_factor=0.3)
    scheduler: Any = non_cosine_schedule(Options(**flags))  # type: ignore[arg-type]

    rates = []
    for _ in range(5):
        scheduler.step(3.0)
        rates.append(scheduler.get_lr(9))

    assert rates == [1.0, 1.0, 0.3, 0.3, 0.2]


def test_a_transfer_schedule_has_a_head_rate_and_its_own_reduction(run: core.Runtime) -> None:
    options = Options(
        dataset="tiny", block_size=16, lr_schedule="transfer", learning_rate=1.0, warmup_iters=0,
        freeze_transformer=True, unfreeze_at_iteration=5, unfreeze_lr_multiplier=0.5, head_lr_multiplier=3.0,
    )  # fmt: skip
    model = GPT(GPTConfig(n_layer=1, n_head=1, n_embd=8, block_size=4, vocab_size=11, mode="token_classifier",
                          attention_type="bidirectional"))  # fmt: skip
    optimizer = make_optimizer(options, run, model, core.Replicated(), None)
    schedule = non_cosine_schedule(options)
    assert schedule is not None
    data = open_data(options, run, core.Preemption())
    _, unfreezing = wiring.callbacks(options, run, data, None, schedule, [])

    schedule.set_lr(optimizer.param_groups, 2)
    rates = {group.get("is_head", False): group["lr"] for group in optimizer.param_groups}

    assert rates == {False: 0.0, True: 3.0}
    assert schedule.get_lr(5) == 0.5 and unfreezing.lr_multiplier == 1.0  # type: ignore[attr-defined]


def test_the_default_schedule_is_nanogpts_cosine() -> None:
    assert non_cosine_schedule(Options()) is None


TENTH = "set min_lr to at most learning_rate (usual is a tenth of it), or decay_lr=False"
CLIMBS = f"min_lr=1 is above learning_rate=0.001: the learning rate climbs to it; {TENTH}"
BELOW_DEFAULT = f"min_lr=6e-05 is above learning_rate=1e-05: the learning rate climbs to it; {TENTH}"
NO_DECAY = (
    "warmup_iters=100 is above lr_decay_iters=50: there is no decay, the learning rate grows until iteration 100 and "
    "then drops to min_lr=6e-05 at once; lower warmup_iters or raise lr_decay_iters"
)
BEYOND = (
    "resume: max_iters=90 is beyond lr_decay_iters=50: from there on the learning rate stays at min_lr=6e-05; set "
    "lr_decay_iters=90 if it is to fall until the end"
)


@pytest.mark.parametrize(
    ("given", "is_resumed", "messages"),
    [
        ({"min_lr": 1.0, "learning_rate": 1e-3}, False, [CLIMBS]),
        ({"min_lr": 1.0, "learning_rate": 1e-3, "lr_schedule": "linear"}, True, [CLIMBS]),
        ({"learning_rate": 1e-5}, False, [BELOW_DEFAULT]),
        ({"learning_rate": 1e-5, "lr_schedule": "inverse_sqrt", "lr_decay_iters": 5}, True, [BELOW_DEFAULT]),
        ({"min_lr": 1e-3, "learning_rate": 1e-3}, False, []),
        ({"min_lr": 1.0, "decay_lr": False}, False, []),
        ({"min_lr": 1.0, "lr_schedule": "constant"}, False, []),
        ({"warmup_iters": 100, "lr_decay_iters": 50}, False, [NO_DECAY]),
        ({"warmup_iters": 50, "lr_decay_iters": 50}, False, []),
        ({"warmup_iters": 100, "lr_decay_iters": 50, "decay_lr": False}, False, []),
        ({"warmup_iters": 5, "lr_decay_iters": 50, "max_iters": 90}, False, []),
        ({"warmup_iters": 5, "lr_decay_iters": 50, "max_iters": 90}, True, [BEYOND]),
        ({"warmup_iters": 5, "lr_decay_iters": 90, "max_iters": 90}, True, []),
        ({"warmup_iters": 5, "lr_decay_iters": 50, "max_iters": 90, "decay_lr": False}, True, []),
        ({}, True, []),
    ],
)
def test_surprises_of_the_learning_rate(given: dict[str, Any], is_resumed: bool, messages: list[str]) -> None:
    assert list(surprises(Options(**given), is_resumed)) == messages


def test_a_base_files_own_rates_surprise_nobody() -> None:
    values = {**Options.defaults(), "min_lr": 1.0, "warmup_iters": 10**6}

    assert list(surprises(Options.validated(values), is_resumed=False)) == []


@pytest.mark.parametrize(("eval_only", "count"), [(False, 1), (True, 0)])
def test_surprises_are_logged_unless_nothing_is_trained(
    run: core.Runtime, caplog: pytest.LogCaptureFixture, eval_only: bool, count: int
) -> None:
    options = Options(min_lr=1.0, eval_only=eval_only)
    make_optimizer(options, run, GPT(GPTConfig(**TINY_SCORER)), core.Replicated(), None)

    assert [record.message.startswith("min_lr=1 is above") for record in caplog.records] == [True] * count


class CombinedOptimizer:
    """Several optimizers with separate parameters, behind the interface of one."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self.optimizers = list(optimizers)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Return all groups; not stored, because load_state_dict replaces the groups of an optimizer."""
        return [*itertools.chain.from_iterable(part.param_groups for part in self.optimizers)]

    def step(self) -> None:
        self._each("step")

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._each("zero_grad", set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"optimizers": self._each("state_dict")}

    def _each(self, method: str, *arguments: Any) -> list[Any]:
        return [getattr(part, method)(*arguments) for part in self.optimizers]


class MixedOptimizersGPT(GPT):
    """A GPT whose matrices are trained by SGD with momentum, and the rest by AdamW."""

    def configure_optimizers(self, weight_decay: float, learning_rate: float, betas: Any, device_type: str) -> Any:
        parameters = list(self.parameters())
        matrices = torch.optim.SGD([p for p in parameters if p.dim() >= 2], lr=learning_rate, momentum=0.9)
        return CombinedOptimizer(matrices, torch.optim.AdamW([p for p in parameters if p.dim() < 2], lr=learning_rate))


def test_an_optimizer_can_consist_of_several(
    run_dir: Any, tiny_argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is stepped, scheduled, saved, resumed exactly and rolled back like a single optimizer."""
    monkeypatch.setattr("model.GPT", MixedOptimizersGPT)
    argv = [*tiny_argv, "--learning_rate=0.05"]
    train.main([*argv, "--out_dir=undisturbed"])
    train.main([*argv, "--out_dir=halves", "--max_iters=3"])
    train.main([*argv, "--out_dir=halves", "--init_from=resume"])

    ours, theirs = (core.load_checkpoint(core.find_latest_checkpoint(name)) for name in ("halves", "undisturbed"))
    assert len(theirs["optimizer"]["optimizers"]) == 2
    assert_same(ours["model"], theirs["model"])
    assert_same(ours["optimizer"], theirs["optimizer"])

    callback = MakesLossNaN(2)
    train.main([*argv, "--out_dir=poisoned", "--eval_interval=1"], [callback])
    recovered = core.load_checkpoint(core.find_latest_checkpoint("poisoned"))
    assert len(recovered["recovery"]["history"]) == 1 and recovered["iter_num"] == 7


class MakesLossNaN(core.Callback):
    """Makes the loss of one update NaN."""

    def __init__(self, iter_num: int) -> None:
        self.iter_num = iter_num

    def on_step_begin(self, trainer: core.Trainer) -> None:
        if trainer.iter_num == self.iter_num:
            objective, self.iter_num = trainer.step.objective, -1

            def nan_objective(model: Any, batch: Any, train: bool) -> core.Output:
                trainer.step.objective = objective
                return core.Output(objective(model, batch, train).loss * float("nan"), {})

            trainer.step.objective = nan_objective  # type: ignore[assignment]
