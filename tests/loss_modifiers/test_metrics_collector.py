"""The relative error of scores, now and on average."""

import torch
from hypothesis import given

from loss_modifiers import MetricsCollectorModifier
from tests.loss_modifiers.batches import Scores, detached, quick, same, score_batches, scores, tokens


def relative_error(batch: Scores) -> float:
    pairs = list(zip(batch.logits.tolist(), batch.targets.tolist(), strict=True))
    return sum(abs(x - y) / max(abs(y), 1e-6) for x, y in pairs) / len(pairs)


@quick
@given(first=score_batches, second=score_batches)
def test_it_compares_matching_pairs_and_averages_over_time(first: Scores, second: Scores) -> None:
    modifier = MetricsCollectorModifier(ema_alpha=0.1)
    modifier.modify(*first)
    same(modifier.metrics()["aare_ema"], relative_error(first))
    modifier.modify(*second)

    same(modifier.metrics()["aare_instant"], relative_error(second))
    same(modifier.metrics()["aare_ema"], 0.9 * relative_error(first) + 0.1 * relative_error(second))
    assert detached(modifier.metrics())


def test_scores_as_a_column_are_compared_with_their_own_targets() -> None:
    batch, modifier = scores(), MetricsCollectorModifier()
    modifier.modify(batch.loss, batch.logits[:, None], *batch[2:])

    same(modifier.metrics()["aare_instant"], relative_error(batch))


def test_a_target_of_zero_divides_by_eps() -> None:
    modifier, nought = MetricsCollectorModifier(eps=0.5), torch.zeros(1)
    modifier.modify(nought, torch.ones(1), nought, nought == 0)

    assert modifier.metrics()["aare_instant"] == 2.0


def test_the_loss_is_never_touched() -> None:
    for batch in (scores(), tokens()):
        assert MetricsCollectorModifier().modify(*batch) is batch.loss


def test_tasks_with_a_target_per_position_have_no_metrics() -> None:
    modifier = MetricsCollectorModifier()
    modifier.modify(*tokens())

    assert modifier.metrics() == {}


def test_the_average_survives_a_reset_and_a_resume() -> None:
    first, second = MetricsCollectorModifier(), MetricsCollectorModifier()
    first.modify(*scores(1))
    first.reset_metrics()
    second.load_state_dict(first.state_dict())
    for modifier in (first, second):
        modifier.modify(*scores(2))

    same(first.metrics()["aare_ema"], 0.9 * relative_error(scores(1)) + 0.1 * relative_error(scores(2)))
    assert torch.equal(first.metrics()["aare_ema"], second.metrics()["aare_ema"])
