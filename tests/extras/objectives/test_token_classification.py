"""Token classification: the balanced loss, and precision, recall and F1 against a plain count."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from extras.objectives.token_classification import ClassMeter, TokenClassification
from model import GPT, GPTConfig
from tests.extras.objectives.known_logits import KnownLogits
from tests.loss_modifiers.batches import softmax
from tests.modifying import Modifying

quick = settings(max_examples=30, deadline=None)
shapes = st.tuples(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 6), st.integers(2, 4))


def labelled(shape: tuple[int, int, int, int]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return logits in float64, and a batch in which about a quarter of the positions has no label (-1 or -100)."""
    seed, rows, length, classes = shape
    draw = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, length, classes, generator=draw, dtype=torch.float64)
    targets = torch.randint(classes, (rows, length), generator=draw)
    targets[torch.rand(rows, length, generator=draw) < 0.25] = (-1, -100)[seed % 2]
    targets[0, 0] = 0
    return logits, {"input": targets.clamp(min=0), "target": targets}


def pairs(logits: torch.Tensor, targets: torch.Tensor) -> list[tuple[list[float], int]]:
    """Return the probabilities and the class of every labelled position."""
    positions = zip(logits.flatten(0, 1).tolist(), targets.flatten().tolist(), strict=True)
    return [(softmax(position), target) for position, target in positions if target >= 0]


# the loss


@quick
@given(shapes, st.booleans())
def test_the_balanced_loss_gives_all_classes_present_the_same_weight(shape: Any, train: bool) -> None:
    logits, batch = labelled(shape)
    by_class: dict[int, list[float]] = {}
    for probabilities, target in pairs(logits, batch["target"]):
        by_class.setdefault(target, []).append(-math.log(probabilities[target]))
    expected = sum(sum(losses) / len(losses) for losses in by_class.values()) / len(by_class)

    loss = TokenClassification(shape[3])(KnownLogits(logits), batch, train).loss

    assert loss.item() == pytest.approx(expected, rel=1e-6)


@quick
@given(shapes)
def test_the_unbalanced_loss_is_the_mean_over_labelled_positions(shape: Any) -> None:
    logits, batch = labelled(shape)
    losses = [-math.log(probabilities[target]) for probabilities, target in pairs(logits, batch["target"])]

    loss = TokenClassification(shape[3], balanced=False)(KnownLogits(logits), batch, train=True).loss

    assert loss.item() == pytest.approx(sum(losses) / len(losses), rel=1e-6)


def test_a_rare_class_counts_as_much_as_a_frequent_one() -> None:
    probabilities = torch.tensor([[[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]]])
    batch = {"input": torch.zeros(1, 4, dtype=torch.int64), "target": torch.tensor([[0, 0, 0, 1]])}

    loss = TokenClassification(2)(KnownLogits(probabilities.log()), batch, train=True).loss

    class_0_loss = -(math.log(0.9) + math.log(0.8) + math.log(0.7)) / 3
    assert loss.item() == pytest.approx((class_0_loss - math.log(0.4)) / 2, rel=1e-6)


def test_with_one_class_present_the_balanced_loss_is_the_plain_mean() -> None:
    logits, batch = labelled((5, 3, 4, 2))
    batch["target"] = batch["target"].clamp(max=0)

    balanced, plain = (TokenClassification(2, b)(KnownLogits(logits), batch, train=True).loss for b in (True, False))

    assert balanced.item() == pytest.approx(plain.item(), rel=1e-6)


@pytest.mark.parametrize("modifiers", [None, Modifying(lambda loss, logits, *_: loss + logits.logsumexp(dim=2))])
def test_a_batch_without_labels_has_loss_and_gradient_zero(modifiers: Modifying | None) -> None:
    logits = torch.randn(2, 3, 2, requires_grad=True)
    batch = {"input": torch.zeros(2, 3, dtype=torch.int64), "target": torch.full((2, 3), -1)}

    loss = TokenClassification(2, modifiers=modifiers)(KnownLogits(logits), batch, train=True).loss
    loss.backward()

    assert loss.item() == 0.0
    assert logits.grad is not None and not logits.grad.any()


def test_modifiers_apply_only_in_training() -> None:
    logits, batch = labelled((7, 3, 4, 3))
    modifiers = Modifying(lambda loss, *_: loss * 2)
    objective = TokenClassification(3, modifiers=modifiers)
    plain = TokenClassification(3)(KnownLogits(logits), batch, train=False)

    evaluated, trained = (objective(KnownLogits(logits), batch, train) for train in (False, True))

    torch.testing.assert_close(evaluated.loss, plain.loss)
    torch.testing.assert_close(trained.loss, 2 * plain.loss)
    assert evaluated.metrics == {} and trained.details is None
    assert trained.metrics["finite"]
    assert trained.metrics["loss_modifiers/Modifying.calls"] == 1
    assert modifiers.inputs is batch["input"]
    restored = Modifying(lambda loss, *_: loss)
    TokenClassification(3, modifiers=restored).load_state_dict(objective.state_dict())
    assert restored.calls == 1
    assert TokenClassification(3).state_dict() == {}


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("number", [math.nan, -math.inf, 1.0])
def test_training_reports_whether_all_logits_are_finite(number: float, balanced: bool) -> None:
    logits, batch = labelled((7, 3, 4, 3))
    logits[1, 2, 0] = number
    objective = TokenClassification(3, balanced)

    assert objective(KnownLogits(logits), batch, train=True).metrics["finite"].item() is math.isfinite(number)
    assert "finite" not in objective(KnownLogits(logits), batch, train=False).metrics
    replaced = TokenClassification(3, balanced, check_logits=lambda values: values.amax() > 100)
    assert not replaced(KnownLogits(torch.zeros(3, 4, 3)), batch, train=True).metrics["finite"]


def test_a_classifier_learns(seeded: None) -> None:
    model = GPT(GPTConfig(1, 1, 16, 8, vocab_size=6, attention_type="bidirectional", mode="token_classifier"))
    ids = torch.randint(6, (8, 8))
    batch = {"input": ids, "target": (ids == 3).long()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for _ in range(30):
        loss = TokenClassification(2)(model, batch, train=True).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    assert losses[-1] < 0.2 * losses[0]


# the metrics of an evaluation


def measured(classes: int, *batches: tuple[torch.Tensor, dict[str, torch.Tensor]]) -> dict[str, float]:
    objective = TokenClassification(classes)
    meter = objective.meter("val")
    assert meter is not None
    for logits, batch in batches:
        meter.add(batch, objective(KnownLogits(logits), batch, train=False).details)
    return meter.result()


def ratio(count: float, total: float) -> float:
    return count / total if total else 0.0


@quick
@given(shapes, shapes)
def test_metrics_equal_a_plain_count(one: Any, other: Any) -> None:
    classes = one[3]
    batches = [labelled(one), labelled((*other[:3], classes))]
    predictions = [
        (probabilities.index(max(probabilities)), target)
        for logits, batch in batches
        for probabilities, target in pairs(logits, batch["target"])
    ]
    class_ids = range(classes)
    predicted = [sum(prediction == c for prediction, _ in predictions) for c in class_ids]
    wanted = [sum(target == c for _, target in predictions) for c in class_ids]
    hits = [sum(prediction == target == c for prediction, target in predictions) for c in class_ids]
    precision = [ratio(hits[c], predicted[c]) for c in class_ids]
    recall = [ratio(hits[c], wanted[c]) for c in class_ids]
    f1 = [ratio(2 * precision[c] * recall[c], precision[c] + recall[c]) for c in class_ids]
    majority = max(wanted)
    constant_precision = majority / len(predictions)

    metrics = measured(classes, *batches)

    assert metrics == pytest.approx(
        {
            "val/accuracy": sum(hits) / len(predictions),
            "val/precision": sum(precision) / classes,
            "val/recall": sum(recall) / classes,
            "val/f1": sum(f1) / classes,
            "val/majority_accuracy": constant_precision,
            "val/majority_f1": 2 * constant_precision / (constant_precision + 1) / classes,
            **{f"val/precision_class_{c}": precision[c] for c in class_ids},
            **{f"val/recall_class_{c}": recall[c] for c in class_ids},
            **{f"val/f1_class_{c}": f1[c] for c in class_ids},
        },
        rel=1e-6,
    )


def test_metrics_of_a_batch_computed_by_hand() -> None:
    predictions = torch.tensor([[0, 0, 1, 1, 1, 0]])
    targets = torch.tensor([[0, 1, 1, 1, 0, -1]])

    metrics = measured(2, (F.one_hot(predictions, 2).float(), {"input": predictions, "target": targets}))

    assert metrics == pytest.approx(
        {
            "val/accuracy": 3 / 5,
            "val/precision": (1 / 2 + 2 / 3) / 2,
            "val/recall": (1 / 2 + 2 / 3) / 2,
            "val/f1": (1 / 2 + 2 / 3) / 2,
            "val/majority_accuracy": 3 / 5,
            "val/majority_f1": 0.75 / 2,  # class 1: precision 3/5, recall 1; class 0: zero
            **{f"val/{kind}_class_0": 1 / 2 for kind in ("precision", "recall", "f1")},
            **{f"val/{kind}_class_1": 2 / 3 for kind in ("precision", "recall", "f1")},
        }
    )


def test_a_class_that_never_occurs_has_zero_scores() -> None:
    ids = torch.zeros(2, 3, dtype=torch.int64)

    metrics = measured(3, (F.one_hot(ids, 3).float(), {"input": ids, "target": ids}))

    assert metrics["val/accuracy"] == metrics["val/f1_class_0"] == 1.0
    assert metrics["val/f1_class_1"] == metrics["val/precision_class_2"] == metrics["val/recall_class_2"] == 0.0
    assert metrics["val/f1"] == metrics["val/majority_f1"] == pytest.approx(1 / 3)


def test_without_labels_all_metrics_are_zero() -> None:
    ids = torch.zeros(1, 2, dtype=torch.int64)

    metrics = measured(2, (F.one_hot(ids, 2).float(), {"input": ids, "target": torch.full((1, 2), -1)}))

    assert set(metrics.values()) == {0.0}


def test_only_the_validation_data_has_a_meter() -> None:
    assert TokenClassification(2).meter("train") is None
    assert isinstance(TokenClassification(2).meter("val"), ClassMeter)
