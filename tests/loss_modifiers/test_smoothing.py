"""The functions that both kinds of label smoothing use."""

import math

import torch

from loss_modifiers.smoothing import id_mask, smoothing_metrics, target_log_probs
from tests.loss_modifiers.batches import same, softmax, tokens


def test_log_probabilities_and_those_of_the_targets() -> None:
    batch = tokens(seed=3, rows=2, length=3, vocab=4)
    expected = [[[math.log(p) for p in softmax(x)] for x in row] for row in batch.logits.tolist()]
    log_probs, of_target, indices = target_log_probs(batch.logits, batch.targets)

    same(log_probs, expected)
    assert indices.tolist() == [[max(t, 0) for t in row] for row in batch.targets.tolist()]
    same(of_target, [[expected[i][j][t] for j, t in enumerate(row)] for i, row in enumerate(indices.tolist())])


def test_an_id_mask_skips_ids_outside_the_vocabulary() -> None:
    assert id_mask((2, 0, 5, -1, 2), 4, torch.device("cpu")).tolist() == [True, False, True, False]


def test_metrics() -> None:
    mask = torch.tensor([[True, True, False]])
    valid = torch.tensor([[True, False, False]])
    found = smoothing_metrics(torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([[5.0, 7.0, 9.0]]), mask, valid, 0.25)

    assert found == {
        "original_loss": 2.0,
        "smoothed_loss": 5.0,
        "smoothing_factor": 0.25,
        "valid_positions": 1,
        "total_positions": 3,
    }
