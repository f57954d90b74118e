"""Weights by the entropy of wrong tokens, compared with loops over lists."""

import logging
from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loss_modifiers import EntropyModifier
from tests.loss_modifiers.batches import Tokens, detached, quick, row_means, same, std, token_batches, tokens
from tests.loss_modifiers.test_wrong_tokens import at_every_position, plain_relative_entropy

NAMES = """per_position_mean_entropy per_position_max_entropy per_position_min_entropy per_position_entropy_std
    sample_mean_entropy sample_min_entropy sample_max_entropy sample_entropy_std weight_mean weight_min weight_max
    weight_std original_loss final_loss loss_ratio batch_size weight_sum"""


def plain_weights(batch: Tokens, weight: float, threshold: float) -> list[float]:
    entropies = row_means(at_every_position(plain_relative_entropy, batch), batch.mask.tolist())
    some = [any(row) for row in batch.mask.tolist()]
    raw = [min(1 / (max(h, threshold) + 1e-8), 1000.0) * m for h, m in zip(entropies, some, strict=True)]
    return [weight * sum(some) * value / (sum(raw) + 1e-8) for value in raw]


@quick
@given(batch=token_batches, weight=st.sampled_from([1.0, 0.3]), threshold=st.sampled_from([0.0, 0.5, 1.0]))
def test_weights_are_inverse_entropies_with_a_mean_of_weight(batch: Tokens, weight: float, threshold: float) -> None:
    weights = plain_weights(batch, weight, threshold) if len(batch.loss) > 1 else [1.0]
    means = row_means(batch.loss.tolist(), batch.mask.tolist())
    modifier = EntropyModifier(weight, threshold)

    same(modifier.modify(*batch), [w * mean for w, mean in zip(weights, means, strict=True)])
    same(modifier.metrics()["weight_sum"], sum(weights))


def test_rows_without_a_valid_position_take_no_weight_from_the_others() -> None:
    batch = tokens(rows=3, share=1.0)
    alone = EntropyModifier().modify(*(tensor[:2] for tensor in batch))
    batch.mask[2] = False

    torch.testing.assert_close(EntropyModifier().modify(*batch)[:2], alone)


def test_gradients_flow_through_the_weights() -> None:
    batch = tokens(share=1.0)
    EntropyModifier().modify(batch.loss.detach(), *batch[1:]).mean().backward()

    assert batch.logits.grad is not None and batch.logits.grad.isfinite().all()
    assert batch.logits.grad.abs().sum() > 0


def test_a_batch_of_one_is_not_weighted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    batch, modifier = tokens(rows=1, share=1.0), EntropyModifier()
    with caplog.at_level(logging.INFO, "coregpt"):
        found = [modifier.modify(*batch), modifier.modify(*batch)]
        EntropyModifier().modify(*tokens(rows=2))

    same(found[0], [batch.loss.mean().item()])
    assert [record.message for record in caplog.records] == [
        "EntropyModifier weights the sequences of a batch against each other: a batch of one is not weighted"
    ]


def test_metrics() -> None:
    batch, modifier = tokens(seed=4, rows=4), EntropyModifier(weight=0.5)
    after = modifier.modify(*batch)
    found = {name: value.item() for name, value in modifier.metrics().items()}
    per_position = at_every_position(plain_relative_entropy, batch)
    valid = [h for h, m in zip(chain(*per_position), batch.mask.flatten().tolist(), strict=True) if m]
    rows, weights = row_means(per_position, batch.mask.tolist()), plain_weights(batch, 0.5, 0.0)
    mean = batch.loss[batch.mask].mean().item()

    assert 0 < len(valid) < 16 and detached(modifier.metrics())
    expected = [sum(valid) / len(valid), max(valid), min(valid), std(valid)]
    expected += [sum(rows) / 4, min(rows), max(rows), std(rows)]
    expected += [sum(weights) / 4, min(weights), max(weights), std(weights)]
    expected += [mean, after.mean().item(), after.mean().item() / mean, 4, sum(weights)]
    assert found == pytest.approx(dict(zip(NAMES.split(), expected, strict=True)), rel=1e-6)
