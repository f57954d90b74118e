"""An evaluation without training ends with an error if a loss is not finite."""

from typing import Any

import pytest
import torch

import core
import train
from extras.finite_losses import FiniteLosses


def test_finite_losses_pass() -> None:
    FiniteLosses().on_eval_end(None, {"train": torch.tensor(2.5), "val": torch.tensor(2.75)})  # type: ignore[arg-type]


@pytest.mark.parametrize(("value", "text"), [(float("nan"), "nan"), (float("inf"), "inf")])
def test_losses_that_are_not_finite_are_named(value: float, text: str) -> None:
    losses = {"train": torch.tensor(2.5), "val": torch.tensor(value)}

    with pytest.raises(core.DivergedError, match=rf"^evaluation: the val loss is {text}: evaluate an earlier"):
        FiniteLosses().on_eval_end(None, losses)  # type: ignore[arg-type]
    with pytest.raises(core.DivergedError, match=rf"the train loss is {text}, the val loss is {text}: "):
        FiniteLosses().on_eval_end(None, dict.fromkeys(losses, losses["val"]))  # type: ignore[arg-type]


def test_eval_only_of_finite_weights_with_a_nan_loss_is_an_error(
    run_dir: Any, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights can be finite, and so large that the logits overflow."""
    train.main([*tiny_argv, "--max_iters=3"])
    checkpoint = torch.load("out/ckpt.pt", weights_only=True)
    checkpoint["model"]["transformer.wte.weight"].fill_(3e38)
    for key in ("run", "ranks"):
        del checkpoint[key]
    torch.save(checkpoint, "out/ckpt.pt")
    capsys.readouterr()

    with pytest.raises(core.DivergedError, match="evaluation: the train loss is nan, the val loss is nan"):
        train.main([*tiny_argv, "--init_from=resume", "--eval_only=True"])
    assert "step 3: train loss nan, val loss nan" in capsys.readouterr().out
