"""The settings of the training loop, the training step and the evaluator."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import core
import train
import wiring
from config.options import Options
from tests.comparing import assert_same
from wiring.loop import loop_numbers, where_to_evaluate


def test_a_request_to_stop_can_end_the_start_of_the_runtime() -> None:
    preemption = core.Preemption()

    settings = wiring.runtime_settings(Options(device="cpu", start_timeout=2), preemption)

    assert settings.pop("preemption") is preemption
    assert settings["start_timeout"] == 2
    core.Runtime(**settings)


def test_loop_numbers_come_from_the_options(run: core.Runtime) -> None:
    options = Options(batch_size=3, gradient_accumulation_steps=4, block_size=10, max_iters=7, check_every_step=True)

    numbers = loop_numbers(options, run)

    assert (numbers.sequences_per_iter, numbers.tokens_per_iter) == (12, 120)
    assert (numbers.max_iters, numbers.check_every_step, numbers.eval_interval) == (7, True, 2000)


def test_micro_steps_are_divided_among_all_ranks(run: core.Runtime) -> None:
    run.world_size = 4
    options = Options(batch_size=3, gradient_accumulation_steps=8, block_size=10)
    numbers = loop_numbers(options, run)

    assert (numbers.sequences_per_iter, numbers.tokens_per_iter) == (6, 240)
    assert wiring.step_settings(options, run)["gradient_accumulation_steps"] == 2


def settings(run: core.Runtime, **options: Any) -> dict[str, Any]:
    data: Any = SimpleNamespace(rows=None)
    return wiring.evaluation_settings(Options(**options), run, core.Replicated(), core.Preemption(), data)


def test_rows_may_have_fewer_batches_than_an_evaluation_asks_for(run: core.Runtime) -> None:
    data: Any = SimpleNamespace(rows=object(), batches=SimpleNamespace(eval_iters=3))
    given = wiring.evaluation_settings(Options(eval_iters=200), run, core.Replicated(), core.Preemption(), data)
    assert given["eval_iters"] == 3 and settings(run, eval_iters=7)["eval_iters"] == 7


def test_eval_rng_sets_the_rng_context_of_evaluations(run: core.Runtime) -> None:
    assert settings(run)["rng"] is nullcontext
    assert settings(run, eval_rng="isolated")["rng"] == run.isolated_rng


def test_a_signal_ends_an_evaluation_on_rank_0(run: core.Runtime) -> None:
    def stopped() -> Any:
        raise core.Interrupted

    evaluate = where_to_evaluate(run, core.Replicated(), core.Preemption())

    assert evaluate(lambda: {"val": torch.tensor(1.0)}) == {"val": 1.0}
    assert evaluate(stopped) is None


class Sharded(core.Replicated):
    """A strategy whose evaluations need every rank."""

    evaluates_on_every_rank = True


def test_a_strategy_can_evaluate_on_every_rank(run: core.Runtime) -> None:
    assert where_to_evaluate(run, Sharded(), core.Preemption()) == run.on_every_rank


class ChangesModel(core.Replicated):
    """A strategy that changes the model before the optimizer is made, as sharding does."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def shard(self, model: Any) -> Any:
        self.calls.append("shard")
        model.transformer["wpe"].weight = torch.nn.Parameter(model.transformer["wpe"].weight.detach().clone())
        return model

    def wrap(self, model: Any) -> Any:
        self.calls.append("wrap")
        return model

    def state_dict(self, model: Any, optimizer: Any) -> dict[str, Any]:
        self.calls.append("state_dict")
        return super().state_dict(model, optimizer)


def test_a_strategy_can_change_the_model_before_the_optimizer(
    run_dir: Path, tiny_argv: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = ChangesModel()
    train.main([*tiny_argv, "--out_dir=plain"])
    monkeypatch.setattr(wiring, "make_parallel", lambda *_: strategy)

    train.main([*tiny_argv, "--out_dir=changed"])

    assert strategy.calls == ["shard", "wrap", "state_dict", "state_dict", "state_dict"]
    ours, theirs = (core.load_checkpoint(core.find_latest_checkpoint(name)) for name in ("changed", "plain"))
    assert_same(ours["model"], theirs["model"])  # the optimizer updates the parameters of the changed model
