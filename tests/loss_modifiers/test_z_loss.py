"""The penalty on large logits, compared with loops over lists."""

import math

import torch
from hypothesis import given

from loss_modifiers import ZLossModifier
from tests.loss_modifiers.batches import Tokens, detached, quick, same, token_batches, tokens


@quick
@given(batch=token_batches)
def test_it_adds_the_squared_log_of_the_normaliser(batch: Tokens) -> None:
    price = [[0.3 * math.log(sum(map(math.exp, x))) ** 2 for x in row] for row in batch.logits.tolist()]

    same(ZLossModifier(0.3).modify(*batch) - batch.loss, price)


def test_the_penalty_is_computed_in_float32_under_autocast() -> None:
    logits = torch.full((1, 1, 4), 100.3).bfloat16()
    loss, targets = torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.int64)
    found = ZLossModifier(1.0).modify(loss, logits, targets, targets == 0)

    same(found, [[(logits[0, 0, 0].item() + math.log(4)) ** 2]])


def test_its_metric_is_the_mean_penalty_over_valid_positions() -> None:
    batch, z_loss = tokens(), ZLossModifier(0.3)
    added = z_loss.modify(*batch) - batch.loss

    same(z_loss.metrics()["z_loss"], added[batch.mask].mean().item())
    assert detached(z_loss.metrics())
