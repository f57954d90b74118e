"""LabelledTokens: the summed loss of the labelled tokens, times the share of the batch."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from data.rows.encoding import IGNORED
from extras.objectives.labelled_tokens import LabelledTokens

LABELS = torch.tensor([[1, IGNORED, 2, 3], [IGNORED, 0, IGNORED, IGNORED]])


class Known(nn.Module):
    """Returns known logits, and keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.randn(2, 4, 5))
        self.given: dict[str, Any] = {}

    def forward(self, **inputs: Any) -> torch.Tensor:
        self.given = inputs
        return self.logits


@pytest.mark.parametrize("shifts", [True, False])
def test_the_loss_is_a_sum_over_labels_times_the_share(shifts: bool) -> None:
    model = Known()
    batch = {"input_ids": torch.zeros(2, 4, dtype=torch.long), "labels": LABELS, "loss_share": torch.tensor(0.25)}
    loss, metrics, _, reported = LabelledTokens(shifts)(model, batch, train=True)

    logits, labels = (model.logits[:, :-1], LABELS[:, 1:]) if shifts else (model.logits, LABELS)
    known = labels != IGNORED
    expected = F.cross_entropy(logits[known], labels[known], reduction="sum") * 0.25
    torch.testing.assert_close(loss, expected)
    assert reported is not None and not reported.requires_grad
    torch.testing.assert_close(reported, F.cross_entropy(logits[known], labels[known]).detach())
    assert metrics == {} and model.given.keys() == {"input_ids", "labels"}


def test_logits_of_half_precision_are_summed_in_float32() -> None:
    model = Known().to(torch.bfloat16)
    batch = {"input_ids": LABELS, "labels": LABELS, "loss_share": torch.tensor(1.0)}

    assert LabelledTokens(True)(model, batch, train=False).loss.dtype == torch.float32


def test_it_takes_batches_of_labelled_rows_alone() -> None:
    batch = {"input_ids": LABELS, "labels": LABELS, "loss_share": torch.tensor(1.0)}
    assert LabelledTokens(True).takes(batch)
    assert not LabelledTokens(True).takes((LABELS, LABELS)) and not LabelledTokens(True).takes({"input_ids": LABELS})


def test_a_micro_batch_without_labels_has_no_loss_and_repeats_the_report() -> None:
    model, objective = Known(), LabelledTokens(True)
    batch = {"input_ids": LABELS, "labels": LABELS, "loss_share": torch.tensor(1.0)}
    known = objective(model, batch, train=True)
    empty = objective(model, {**batch, "labels": torch.full_like(LABELS, IGNORED)}, train=True)
    empty.loss.backward()  # type: ignore[no-untyped-call]

    assert empty.loss == 0 and model.logits.grad is not None and not model.logits.grad.any()
    assert empty.reported == known.reported != 0
    objective(model, {**batch, "labels": LABELS[[1, 1]]}, train=False)  # evaluations change nothing
    resumed = LabelledTokens(True)
    resumed.load_state_dict(objective.state_dict())
    assert resumed(model, {**batch, "labels": torch.full_like(LABELS, IGNORED)}, train=True).reported == known.reported
