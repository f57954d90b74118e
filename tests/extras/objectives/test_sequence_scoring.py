"""Sequence scoring: filled texts after a CLS token, the masked share as the target, and the metrics."""

import math
import statistics
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from extras.filler import Filler
from extras.objectives.sequence_scoring import ScoreMeter, SequenceScoring
from model import GPT, GPTConfig
from tests.modifying import Modifying

quick = settings(max_examples=30, deadline=None)
CLS, MASK, TEXT = 9, 5, 5


class Scores(nn.Module):
    """A scorer that returns the same scores (B,) for every input, and records the inputs."""

    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__()
        self.scores = scores
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.seen.append((ids, targets))
        return self.scores, (self.scores - targets).square().mean()


class ConstantToken(nn.Module):
    """An unmasking model whose likeliest token is the same at every position."""

    def __init__(self, token: int) -> None:
        super().__init__()
        self.token = token

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits = torch.zeros(*ids.shape, TEXT + 15)
        logits[..., self.token] = 5.0
        return logits, None


def masked(targets: list[list[int]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Return a masked batch whose text is 1 at every position that is not masked."""
    wanted = torch.tensor(targets)
    return {
        "input": torch.ones_like(wanted).masked_fill(wanted >= 0, MASK),
        "target": wanted,
        "seed": torch.tensor(seed),
    }


# the loss


def test_filled_texts_follow_cls_and_the_target_is_the_masked_share() -> None:
    batch = masked([[-1, 2, -1, 0], [-1, -1, -1, -1], [4, 4, 4, 4]])
    model = Scores(torch.tensor([0.5, 0.25, 0.0]))

    output = SequenceScoring(CLS, Filler(ConstantToken(3), TEXT))(model, batch, train=True)

    ids, targets = model.seen[0]
    assert ids.tolist() == [[CLS, 1, 3, 1, 3], [CLS, 1, 1, 1, 1], [CLS, 3, 3, 3, 3]]
    assert targets.tolist() == [0.5, 0.0, 1.0]
    assert output.loss.item() == pytest.approx((0 + 0.25**2 + 1) / 3)
    assert output.metrics["ratio"].item() == pytest.approx((0 + 0.25 + 1) / 3)
    assert list(output.metrics) == ["ratio", "finite"] and output.details is None


def test_the_target_can_be_transformed() -> None:
    model = Scores(torch.zeros(2))

    SequenceScoring(CLS, Filler(ConstantToken(3), TEXT), transform=True)(
        model, masked([[2, -1, -1, -1], [2, 2, -1, -1]]), train=True
    )

    expected = [x**4 - 2 * x**3 + 2 * x for x in (0.25, 0.5)]
    assert model.seen[0][1].tolist() == pytest.approx(expected, rel=1e-6)


def test_without_a_filler_batches_are_used_unchanged() -> None:
    batch = {"input": torch.tensor([[CLS, 1, 2]]), "target": torch.tensor([0.75], dtype=torch.float64)}
    model = Scores(torch.tensor([0.25]))

    output = SequenceScoring(CLS, None)(model, batch, train=True)

    assert model.seen[0][0] is batch["input"]
    assert output.loss.item() == pytest.approx(0.25)


def test_the_filler_draws_with_the_seed_of_the_batch() -> None:
    filler = Filler(ConstantToken(3), TEXT, sample=True, temperature=10.0)
    model = Scores(torch.zeros(1))
    for seed in (1, 2, 1):
        SequenceScoring(CLS, filler)(model, masked([[2] * 40], seed), train=True)

    first, other, again = (ids for ids, _ in model.seen)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_modifiers_apply_only_in_training() -> None:
    batch = masked([[-1, 2, -1, 0], [-1, -1, -1, -1]])
    model = Scores(torch.tensor([0.1, 0.3]))
    seen: list[tuple[torch.Tensor, ...]] = []

    def doubled(*parts: torch.Tensor) -> torch.Tensor:
        seen.append(parts)
        return parts[0] * 2

    modifiers = Modifying(doubled)
    objective = SequenceScoring(CLS, Filler(ConstantToken(3), TEXT), modifiers=modifiers)

    evaluated, trained = (objective(model, batch, train) for train in (False, True))

    assert trained.loss.item() == pytest.approx(2 * evaluated.loss.item())
    assert evaluated.metrics == {} and modifiers.calls == 1
    assert set(trained.metrics) == {"ratio", "finite", "loss_modifiers/Modifying.calls"}
    squares, scores, targets, every_text = seen[0]
    assert squares.tolist() == pytest.approx([0.16, 0.09]) and scores is model.scores
    assert targets.tolist() == [0.5, 0.0] and every_text.tolist() == [True, True]
    assert modifiers.inputs is model.seen[1][0]
    restored = Modifying(doubled)
    SequenceScoring(CLS, None, modifiers=restored).load_state_dict(objective.state_dict())
    assert restored.calls == 1 and SequenceScoring(CLS, None).state_dict() == {}


@pytest.mark.parametrize("number", [math.nan, math.inf, 0.5])
def test_training_reports_whether_all_scores_are_finite(number: float) -> None:
    batch = masked([[-1, 2, -1, 0], [-1, -1, -1, -1]])
    filler = Filler(ConstantToken(3), TEXT)
    objective, model = SequenceScoring(CLS, filler), Scores(torch.tensor([0.1, number]))

    assert objective(model, batch, train=True).metrics["finite"].item() is math.isfinite(number)
    assert "finite" not in objective(model, batch, train=False).metrics
    replaced = SequenceScoring(CLS, filler, check_logits=lambda values: values.amax() > 100)
    assert not replaced(Scores(torch.tensor([0.1, 0.2])), batch, train=True).metrics["finite"]


def test_a_scorer_learns_and_the_filler_does_not_change() -> None:
    filler = GPT(GPTConfig(1, 1, 16, 8, vocab_size=TEXT + 15, attention_type="bidirectional"))
    config = GPTConfig(1, 1, 16, 9, vocab_size=TEXT + 15, attention_type="bidirectional")
    config.mode, config.cls_token_id = "sequence_scorer", CLS
    model = GPT(config)
    before = {name: tensor.clone() for name, tensor in filler.state_dict().items()}
    batch = masked([[-1] * 8, [2] * 8])
    objective = SequenceScoring(CLS, Filler(filler, TEXT))
    optimizer = torch.optim.Adam([*model.parameters(), *filler.parameters()], lr=0.05)
    losses = []
    for _ in range(60):
        loss = objective(model, batch, train=True).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    assert losses[-1] < 0.2 * losses[0]
    assert all(torch.equal(before[name], tensor) for name, tensor in filler.state_dict().items())


# the metrics of an evaluation


def measured(scores: list[float], targets: list[float], parts: int = 1) -> dict[str, float]:
    meter = SequenceScoring(CLS, None).meter("val")
    assert isinstance(meter, ScoreMeter)
    for part in range(parts):
        values_of_part = [torch.tensor(values[part::parts]) for values in (scores, targets)]
        meter.add({}, tuple(values_of_part))
    return meter.result()


numbers = st.lists(
    st.tuples(st.floats(0, 1, width=16), st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0])), min_size=2, max_size=12
)


@quick
@given(numbers, st.integers(1, 3))
def test_metrics_equal_a_plain_computation(drawn: list[tuple[float, float]], parts: int) -> None:
    scores, targets = [score for score, _ in drawn], [target for _, target in drawn]
    error = statistics.fmean((s - t) ** 2 for s, t in drawn)
    constant_mse = statistics.pvariance(targets)
    has_variance = len(set(scores)) > 1 and len(set(targets)) > 1
    expected = {
        "val/mse": error,
        "val/constant_mse": constant_mse,
        "val/mse_ratio": error / constant_mse if constant_mse else math.inf if error else 1.0,
        "val/correlation": statistics.correlation(scores, targets) if has_variance else 0.0,
    }
    untouched = sorted(score for score, target in drawn if target == 0)
    if untouched:
        index = 0.9 * (len(untouched) - 1)
        low, high = untouched[math.floor(index)], untouched[math.ceil(index)]
        expected["val/zero_mean"] = statistics.fmean(untouched)
        expected["val/zero_p90"] = low + (index - math.floor(index)) * (high - low)

    assert measured(scores, targets, parts) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_metrics_computed_by_hand() -> None:
    metrics = measured([0.0, 0.5, 0.5, 1.0], [0.0, 0.0, 1.0, 1.0])

    assert metrics == pytest.approx(
        {
            "val/mse": 0.125,
            "val/constant_mse": 0.25,
            "val/mse_ratio": 0.5,
            "val/correlation": 0.125 / math.sqrt(0.125 * 0.25),
            "val/zero_mean": 0.25,
            "val/zero_p90": 0.45,
        }
    )


@pytest.mark.parametrize("score", [0.1, 0.3, 0.7])
def test_constant_scores_have_correlation_zero(score: float) -> None:
    """A variance that consists of rounding errors must count as zero."""
    metrics = measured([score] * 7, [0.0, 0.3, 0.6, 0.1, 0.2, 0.9, 0.1])

    assert metrics["val/correlation"] == 0.0


@pytest.mark.parametrize("target", [0.1, 0.3, 0.7])
def test_constant_targets_have_an_infinite_error_ratio(target: float) -> None:
    wrong, right = measured([0.2, 0.3, 0.9], [target] * 3), measured([target] * 7, [target] * 7)

    assert wrong["val/mse_ratio"] == math.inf and wrong["val/correlation"] == 0.0
    assert right["val/mse_ratio"] == 1.0
    assert "val/zero_mean" not in wrong  # every text has masked positions


def test_only_the_validation_data_has_a_meter() -> None:
    details: Any = SequenceScoring(CLS, None)(
        Scores(torch.tensor([0.25])), {"input": torch.tensor([[CLS, 1]]), "target": torch.tensor([0.5])}, train=False
    ).details

    assert SequenceScoring(CLS, None).meter("train") is None
    assert [part.tolist() for part in details] == [[0.25], [0.5]]
