"""RunState: counters, losses, and their notes in a manifest."""

import math

import pytest
import torch

from core.run_state import RunState


def losses(train: float, val: float) -> dict[str, torch.Tensor]:
    return {"train": torch.tensor(train), "val": torch.tensor(val)}


def test_record_evaluation_returns_logged_names_and_keeps_the_lowest_loss() -> None:
    state = RunState()
    state.iter_num = 4

    logged = state.record_evaluation({**losses(2.0, 1.0), "val/accuracy": torch.tensor(0.5)})
    first = state.metrics
    state.record_evaluation(losses(1.0, 3.0))

    assert logged == {"train/loss": 2.0, "val/loss": 1.0, "val/accuracy": 0.5}
    assert (first, state.metrics) == ({"val/accuracy": 0.5}, {})
    assert (state.lowest_val_loss, state.evaluated_at, state.losses) == (1.0, 4, losses(1.0, 3.0))


def test_a_manifest_holds_losses_of_the_saved_weights_only() -> None:
    state = RunState()
    state.record_evaluation(losses(2.0, 1.0))
    current = state.manifest_notes(is_healthy=True, max_iters=0)
    state.iter_num = 1
    next_iteration = state.manifest_notes(is_healthy=False, max_iters=0)

    assert current == dict(iter_num=0, train_loss=2.0, val_loss=1.0, lowest_val_loss=1.0, healthy=True, finished=False)
    assert next_iteration == dict(
        iter_num=1, train_loss=None, val_loss=None, lowest_val_loss=1.0, healthy=False, finished=True
    )
    assert RunState().manifest_notes(True, 9)["lowest_val_loss"] is None


def test_load_state_dict_restores_what_state_dict_returned() -> None:
    state = RunState()
    state.iter_num = 3
    state.record_evaluation(losses(2.0, 1.0))
    state.saved_val_loss = torch.tensor(5.0)
    other = RunState()
    other.load_state_dict(state.state_dict())

    assert (
        other.state_dict()
        == state.state_dict()
        == dict(iter_num=3, best_val_loss=5.0, lowest_val_loss=1.0, evaluated_at=3)
    )
    assert other.losses == {}


@pytest.mark.parametrize("best", [2.5, torch.tensor(2.5)])
def test_the_two_counters_of_nanogpt_are_enough_to_restore(best: float | torch.Tensor) -> None:
    state = RunState()
    state.load_state_dict({"iter_num": 7, "best_val_loss": best})

    assert (state.iter_num, state.lowest_val_loss, state.saved_val_loss, state.evaluated_at) == (7, 2.5, 2.5, None)


def test_before_the_first_evaluation_there_is_no_lowest_loss() -> None:
    state = RunState()

    assert (state.lowest_val_loss, state.saved_val_loss, state.evaluated_at) == (math.inf, 1e9, None)
