"""Unmasking: the loss over masked positions, and the metrics of an evaluation."""

import math
import statistics
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from extras.objectives.unmasking import Unmasking, UnmaskingMeter
from loss_modifiers import LossModifierPipeline, MaskRatioWeightModifier
from model import GPT, GPTConfig
from tests.extras.objectives.known_logits import KnownLogits
from tests.loss_modifiers.batches import softmax
from tests.modifying import Modifying

quick = settings(max_examples=30, deadline=None)
shapes = st.tuples(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 6), st.integers(3, 7))


def masked(shape: tuple[int, int, int, int]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return logits in float64, and a batch; at least one position is masked, the other targets are -1 or -100."""
    seed, rows, length, vocab = shape
    draw = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, length, vocab, generator=draw, dtype=torch.float64)
    original = torch.randint(vocab, (rows, length), generator=draw)
    mask = torch.rand(rows, length, generator=draw) < 0.5
    mask[-1, -1] = True
    stage = torch.randint(3, (rows,), generator=draw)
    inputs = original.masked_fill(mask, vocab)
    return logits, {"input": inputs, "target": original.where(mask, (-1, -100)[seed % 2]), "stage": stage}


def row_losses(logits: torch.Tensor, targets: torch.Tensor) -> list[list[float]]:
    """Return the cross-entropies of each row's masked positions."""
    return [
        [-math.log(softmax(p)[t]) for p, t in zip(row, wanted, strict=True) if t >= 0]
        for row, wanted in zip(logits.tolist(), targets.tolist(), strict=True)
    ]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


# the loss


@quick
@given(shapes, st.booleans())
def test_loss_is_the_mean_over_positions_or_over_the_means_of_sequences(shape: Any, train: bool) -> None:
    logits, batch = masked(shape)
    losses = row_losses(logits, batch["target"])

    by_token = Unmasking("tokens")(KnownLogits(logits), batch, train).loss.item()
    by_sequence = Unmasking("sequences")(KnownLogits(logits), batch, train).loss.item()

    assert by_token == pytest.approx(mean([loss for row in losses for loss in row]), rel=1e-6)
    assert by_sequence == pytest.approx(mean([mean(row) for row in losses if row]), rel=1e-6)


@quick
@given(shapes)
def test_training_reports_the_number_of_masked_positions(shape: Any) -> None:
    logits, batch = masked(shape)
    counts = [len(row) for row in row_losses(logits, batch["target"])]

    metrics = Unmasking()(KnownLogits(logits), batch, train=True).metrics

    assert metrics.pop("finite")
    assert {name: value.item() for name, value in metrics.items()} == {
        "mask_counts/mean": pytest.approx(mean([float(count) for count in counts])),
        "mask_counts/var": pytest.approx(statistics.variance(counts) if len(counts) > 1 else 0.0),
        "mask_counts/min": min(counts),
        "mask_counts/max": max(counts),
    }


def test_without_modifiers_the_loss_is_the_models_own_tensor() -> None:
    logits, batch = masked((1, 3, 4, 5))
    model = KnownLogits(logits)
    losses: list[torch.Tensor] = []
    model.register_forward_hook(lambda *parts: losses.append(parts[-1][1]))

    assert Unmasking()(model, batch, train=True).loss is losses[0]
    assert Unmasking(modifiers=Modifying(lambda *parts: parts[0] * 9))(model, batch, train=False).loss is losses[1]


@pytest.mark.parametrize("mean", ["tokens", "sequences"])
def test_modifiers_do_not_change_an_evaluation(mean: str) -> None:
    logits, batch = masked((2, 3, 4, 5))
    modifiers = Modifying(lambda loss, *_: loss * 2)
    plain = Unmasking(mean)(KnownLogits(logits), batch, train=False)

    evaluated = Unmasking(mean, modifiers)(KnownLogits(logits), batch, train=False)
    doubled = Unmasking(mean, modifiers)(KnownLogits(logits), batch, train=True)

    torch.testing.assert_close(evaluated.loss, plain.loss)
    torch.testing.assert_close(doubled.loss, 2 * plain.loss)
    assert evaluated.metrics == {} and modifiers.calls == 1
    assert doubled.metrics["loss_modifiers/Modifying.calls"] == 1
    assert doubled.details is None


@pytest.mark.parametrize("number", [math.nan, math.inf, 1.0])
@pytest.mark.parametrize("position", [(0, 0), (1, 1)])  # not masked, masked
def test_training_reports_whether_all_logits_are_finite(number: float, position: tuple[int, int]) -> None:
    logits = torch.zeros(2, 2, 3, requires_grad=True)
    with torch.no_grad():
        logits[position][2] = number
    batch = {"input": torch.zeros(2, 2, dtype=torch.int64), "target": torch.tensor([[-1, 0], [0, 1]])}

    flag = Unmasking()(KnownLogits(logits), batch, train=True).metrics["finite"]

    assert flag.dtype == torch.bool and flag.shape == () and not flag.requires_grad
    assert flag.item() is math.isfinite(number)
    assert "finite" not in Unmasking()(KnownLogits(logits), batch, train=False).metrics


def test_the_check_of_logits_can_be_replaced() -> None:
    checked: list[torch.Tensor] = []
    logits, batch = masked((2, 3, 4, 5))
    flag = torch.tensor(False)

    output = Unmasking(check_logits=lambda values: checked.append(values) or flag)(
        KnownLogits(logits), batch, train=True
    )

    assert output.metrics["finite"] is flag and torch.equal(checked[0], logits)


@quick
@given(shapes, st.sampled_from(["tokens", "sequences"]))
def test_the_mean_of_weighted_sequences_is_over_masked_sequences(shape: Any, kind: str) -> None:
    logits, batch = masked(shape)
    modifiers = LossModifierPipeline([MaskRatioWeightModifier(0.5, 0.0, math.inf)])
    length = batch["target"].size(1)
    expected = [mean(row) * (len(row) / length) ** -0.5 for row in row_losses(logits, batch["target"]) if row]

    loss = Unmasking(kind, modifiers)(KnownLogits(logits), batch, train=True).loss

    assert loss.item() == pytest.approx(mean(expected), rel=1e-6)
    assert modifiers.inputs is batch["input"]


def test_the_state_of_modifiers_is_saved_and_restored() -> None:
    first, second = Modifying(lambda loss, *_: loss), Modifying(lambda loss, *_: loss)
    logits, batch = masked((2, 3, 4, 5))
    Unmasking(modifiers=first)(KnownLogits(logits), batch, train=True)

    Unmasking(modifiers=second).load_state_dict(Unmasking(modifiers=first).state_dict())

    assert second.calls == 1
    assert Unmasking().state_dict() == {}
    Unmasking().load_state_dict({})


def test_a_model_learns_to_unmask() -> None:
    model = GPT(GPTConfig(1, 1, 16, 8, vocab_size=7, attention_type="bidirectional"))
    original = torch.arange(8).remainder(5).repeat(4, 1)
    mask = torch.arange(8).remainder(3).eq(0).repeat(4, 1)
    batch = {"input": original.masked_fill(mask, 5), "target": original.where(mask, -1)}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for _ in range(30):
        loss = Unmasking()(model, batch, train=True).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    assert losses[-1] < 0.2 * losses[0]


# the metrics of an evaluation


def near(value: float) -> Any:
    """Return the value with a tolerance: the meter computes in float32, and large ratios lose a few bits more."""
    return pytest.approx(value, rel=5e-6, abs=1e-6)


def measured(meter: UnmaskingMeter, *batches: tuple[torch.Tensor, dict[str, torch.Tensor]]) -> dict[str, float]:
    for logits, batch in batches:
        output = Unmasking()(KnownLogits(logits), batch, train=False)
        meter.add(batch, output.details)
    return meter.result()


@quick
@given(shapes, shapes)
def test_validation_metrics_equal_a_plain_computation(one: Any, other: Any) -> None:
    vocab = one[3]
    batches = [masked(one), masked((*other[:3], vocab))]
    correct, ratios, hits = [], [], []
    stages: dict[int, list[float]] = {}
    for logits, batch in batches:
        targets = batch["target"].tolist()
        for stage, losses in zip(batch["stage"].tolist(), row_losses(logits, batch["target"]), strict=True):
            if losses:
                stages.setdefault(stage, []).append(mean(losses))
        for row, wanted in zip(logits.tolist(), targets, strict=True):
            for position, target in zip(row, wanted, strict=True):
                if target < 0:
                    continue
                probabilities = softmax(position)
                wrong = max(probabilities[:target] + probabilities[target + 1 :])
                correct.append(probabilities[target])
                ratios.append(min(probabilities[target] / wrong, 100.0))
                hits.append(probabilities[target] > wrong)

    metrics = measured(UnmaskingMeter("val"), *batches)

    assert metrics == {
        "model vs random": near(mean(correct) * vocab),
        "avg correct prob": near(mean(correct)),
        "random prob": pytest.approx(1 / vocab),
        "signal to noise": near(mean(ratios)),
        "signal to noise median": near(statistics.median(ratios)),
        "most likely accuracy": pytest.approx(100 * mean([float(hit) for hit in hits])),
        **{f"val/stage_{stage}_loss": near(mean(losses)) for stage, losses in stages.items()},
        **{f"val/stage_{stage}_samples": len(losses) for stage, losses in stages.items()},
    }


def test_metrics_of_a_batch_computed_by_hand() -> None:
    probabilities = torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], [[0.2, 0.4, 0.4], [1 / 3, 1 / 3, 1 / 3]]])
    batch = {
        "input": torch.full((2, 2), 2),
        "target": torch.tensor([[0, 1], [2, -1]]),  # the last position is not masked
        "stage": torch.tensor([1, 0]),
    }

    metrics = measured(UnmaskingMeter("val"), (probabilities.log(), batch))

    assert metrics == {
        "model vs random": pytest.approx(3 * (0.5 + 0.1 + 0.4) / 3),
        "avg correct prob": pytest.approx(1 / 3),
        "random prob": pytest.approx(1 / 3),
        "signal to noise": pytest.approx((2 + 0.125 + 1) / 3),
        "signal to noise median": pytest.approx(1.0),
        "most likely accuracy": pytest.approx(100 / 3),  # a tie counts as wrong
        "val/stage_0_loss": pytest.approx(math.log(2.5)),
        "val/stage_0_samples": 1,
        "val/stage_1_loss": pytest.approx((math.log(2) + math.log(10)) / 2),
        "val/stage_1_samples": 1,
    }


def test_the_signal_to_noise_ratio_is_limited_to_100() -> None:
    logits = torch.tensor([[[200.0, 0.0, 0.0]]])
    metrics = measured(UnmaskingMeter("val"), (logits, {"input": torch.tensor([[2]]), "target": torch.tensor([[0]])}))

    assert metrics["signal to noise"] == metrics["signal to noise median"] == 100.0
    assert metrics["most likely accuracy"] == 100.0
    assert not any("stage" in name for name in metrics)  # the batch has no stages


def test_a_sequence_without_masks_does_not_count_in_its_stage() -> None:
    logits = torch.zeros(2, 3, 4)
    batch = {
        "input": torch.zeros(2, 3, dtype=torch.int64),
        "target": torch.tensor([[-1, -1, -1], [0, -1, -1]]),
        "stage": torch.tensor([0, 1]),
    }

    metrics = measured(UnmaskingMeter("val"), (logits, batch))

    assert {name for name in metrics if "stage" in name} == {"val/stage_1_loss", "val/stage_1_samples"}
    assert metrics["val/stage_1_loss"] == pytest.approx(math.log(4))


@quick
@given(shapes, shapes)
def test_the_training_meter_measures_the_masked_ratios(one: Any, other: Any) -> None:
    batches = [masked(one), masked(other)]
    ratios = [sum(target >= 0 for target in row) / len(row) for _, batch in batches for row in batch["target"].tolist()]

    assert measured(UnmaskingMeter("train"), *batches) == {
        "masked_token_ratio": pytest.approx(mean(ratios), rel=1e-6),
        "min_masked_token_ratio": pytest.approx(min(ratios)),
        "max_masked_token_ratio": pytest.approx(max(ratios)),
    }


def test_every_split_has_its_own_meter() -> None:
    meters = [Unmasking().meter("train"), Unmasking().meter("val"), Unmasking().meter("val")]

    assert [meter.split for meter in meters] == ["train", "val", "val"]
    assert meters[1] is not meters[2]
