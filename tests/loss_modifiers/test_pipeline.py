"""Several modifiers in a row, alone and inside a language model's objective."""

import itertools
import math

import pytest
import torch
from hypothesis import given

from core.objective import LanguageModeling
from loss_modifiers import (
    EntropyModifier,
    EntropyPenaltyModifier,
    LabelSmoothingModifier,
    LossModifier,
    LossModifierPipeline,
    MaskRatioWeightModifier,
    MetricsCollectorModifier,
    SequenceScorerCorrelationModifier,
    SequenceScorerVarianceModifier,
    TargetSmoothingModifier,
    ZLossModifier,
)
from model import GPT
from tests.loss_modifiers.batches import Tokens, quick, row_means, same, scores, softmax, token_batches, tokens
from tests.loss_modifiers.test_entropy import plain_weights


class Times(LossModifier):
    """Multiplies by a factor."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        return loss * self.factor

    def metrics(self) -> dict[str, torch.Tensor]:
        return {"factor": torch.tensor(self.factor)}


class Plus(LossModifier):
    """Adds one."""

    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        return loss + 1


class PerSequence(LossModifier):
    """Turns (B, T) into the mean of each sequence's valid positions, weighed by their number, and keeps all it gets."""

    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        self.got = loss, logits, targets, mask
        return (loss * mask).sum(dim=1)

    def metrics(self) -> dict[str, torch.Tensor]:
        return {"valid": self.got[3].sum(), "largest": self.got[0].max()}


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return loss, logits, targets and mask of 2 sequences of 3 tokens."""
    loss, targets = torch.rand(2, 3), torch.tensor([[1, 2, -1], [0, -1, 3]])
    return loss, torch.rand(2, 3, 4), targets, targets != -1


def test_an_empty_pipeline_returns_the_loss_itself(inputs: tuple[torch.Tensor, ...]) -> None:
    pipeline = LossModifierPipeline()

    assert pipeline.modify(*inputs) is inputs[0]
    assert pipeline.metrics() == {}


@pytest.mark.parametrize("order", list(itertools.permutations(["times", "plus", "again"])))
def test_modifiers_are_applied_in_the_order_given(inputs: tuple[torch.Tensor, ...], order: list[str]) -> None:
    modifiers = {"times": Times(3.0), "plus": Plus(), "again": Times(-0.5)}
    steps = {"times": lambda x: x * 3.0, "plus": lambda x: x + 1, "again": lambda x: x * -0.5}
    expected = inputs[0]
    for name in order:
        expected = steps[name](expected)

    assert torch.equal(LossModifierPipeline([modifiers[name] for name in order]).modify(*inputs), expected)


def test_every_modifier_sees_the_same_logits_targets_and_mask(inputs: tuple[torch.Tensor, ...]) -> None:
    last = PerSequence()
    LossModifierPipeline([Times(2.0), Plus(), last]).modify(*inputs)

    assert torch.equal(last.got[0], inputs[0] * 2 + 1)
    assert all(ours is given for ours, given in zip(last.got[1:], inputs[1:], strict=True))


def test_metrics_carry_the_name_of_their_class(inputs: tuple[torch.Tensor, ...]) -> None:
    pipeline = LossModifierPipeline([Times(3.0), Plus(), PerSequence()])
    pipeline.modify(*inputs)

    largest = inputs[0].max() * 3 + 1
    assert pipeline.metrics() == {"Times.factor": 3.0, "PerSequence.valid": 4, "PerSequence.largest": largest}


def test_a_pipeline_may_hold_a_pipeline(inputs: tuple[torch.Tensor, ...]) -> None:
    inner = LossModifierPipeline([Times(3.0), Plus()])
    outer = LossModifierPipeline([inner, Times(2.0)])

    assert torch.equal(outer.modify(*inputs), (inputs[0] * 3 + 1) * 2)
    assert list(outer.metrics()) == ["LossModifierPipeline.Times.factor", "Times.factor"]


@pytest.mark.parametrize("train", [True, False])
def test_an_objective_takes_the_mean_once_after_the_last_modifier(tiny_model: GPT, train: bool) -> None:
    tokens = torch.randint(17, (3, 8))
    targets = tokens.roll(-1, dims=1)
    targets[:, -1] = -1
    own = tiny_model(tokens, targets)[1]
    pipeline = LossModifierPipeline([Times(3.0), Plus(), PerSequence()])

    loss = LanguageModeling(pipeline)(tiny_model, (tokens, targets), train).loss

    torch.testing.assert_close(loss, 7 * (own * 3 + 1) if train else own)  # 7 valid positions a sequence


@quick
@given(batch=token_batches)
def test_smoothing_ratio_and_entropy_multiply(batch: Tokens) -> None:
    smoothed = []
    for row, targets in zip(batch.logits.tolist(), batch.targets.tolist(), strict=True):
        logs = [[math.log(p) for p in softmax(x)] for x in row]
        others = 0.1 / (len(row[0]) - 1)
        beliefs = [[0.9 if number == t else others for number in range(len(row[0]))] for t in targets]
        smoothed.append([-sum(map(math.prod, zip(q, x, strict=True))) for q, x in zip(beliefs, logs, strict=True)])
    means = row_means(smoothed, batch.mask.tolist())
    by_entropy = plain_weights(batch, 1.0, 0.0)
    by_ratio = [min(max(len(m) / (sum(m) or 1e-9), 0.01), 100.0) ** 0.5 for m in batch.mask.tolist()]
    modifiers = [TargetSmoothingModifier(), EntropyModifier(), MaskRatioWeightModifier()]

    expected = [mean * a * b for mean, a, b in zip(means, by_entropy, by_ratio, strict=True)]
    same(LossModifierPipeline(modifiers).modify(*batch), expected)


def every_token_modifier() -> LossModifierPipeline:
    """Return the modifiers that apply where every position has a target, but for those that ask a judge."""
    return LossModifierPipeline(
        [
            TargetSmoothingModifier(special_tokens=[1]),
            LabelSmoothingModifier(special_tokens=[1]),
            ZLossModifier(),
            EntropyModifier(),
            EntropyPenaltyModifier(0.5, 0, 10),
            MaskRatioWeightModifier(),
            MetricsCollectorModifier(),
        ]
    )


def every_score_modifier() -> LossModifierPipeline:
    """Return the modifiers of sequence scoring."""
    return LossModifierPipeline(
        [SequenceScorerVarianceModifier(), SequenceScorerCorrelationModifier(), MetricsCollectorModifier()]
    )


@pytest.mark.parametrize(("rows", "length", "share"), [(3, 4, 0.6), (1, 1, 1.0), (1, 5, 0.0), (4, 1, 0.3)])
def test_gradients_of_all_together_are_finite(rows: int, length: int, share: float) -> None:
    batch, pipeline = tokens(1, rows, length, share=share), every_token_modifier()
    pipeline.iter_num = 7
    loss = pipeline.modify(*batch)
    loss.sum().backward()

    assert loss.shape == (rows,) and loss.isfinite().all()
    assert batch.logits.grad is not None and batch.logits.grad.isfinite().all()
    assert all(value.isfinite() for value in pipeline.metrics().values())


def test_half_precision_logits_give_the_loss_of_their_values() -> None:
    batch = tokens()
    coarse = batch._replace(logits=batch.logits.detach().bfloat16(), loss=batch.loss.detach().float())
    same_values = coarse._replace(logits=coarse.logits.float())

    assert torch.equal(every_token_modifier().modify(*coarse), every_token_modifier().modify(*same_values))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's compiler looks at it
@pytest.mark.parametrize("scoring", [False, True])
def test_they_compile_without_a_graph_break(scoring: bool) -> None:
    make, batch = (every_score_modifier, scores) if scoring else (every_token_modifier, tokens)
    eager, compiled = make(), make()
    torch.compiler.reset()
    modify = torch.compile(compiled.modify, fullgraph=True, backend="eager")
    for iter_num, seed in enumerate((1, 2)):
        eager.iter_num = compiled.iter_num = 5 * iter_num
        torch.testing.assert_close(modify(*batch(seed)), eager.modify(*batch(seed)))
    torch.testing.assert_close(compiled.metrics(), eager.metrics())


def test_disabled_it_leaves_the_loss_itself_until_the_outermost_block_ends(inputs: tuple[torch.Tensor, ...]) -> None:
    pipeline = LossModifierPipeline([Plus()])
    with pytest.raises(KeyError), pipeline.temporarily_disabled():
        with pipeline.temporarily_disabled():
            assert pipeline.modify(*inputs) is inputs[0]
        assert pipeline.modify(*inputs) is inputs[0]
        raise KeyError

    assert torch.equal(pipeline.modify(*inputs), inputs[0] + 1)


def test_every_modifier_gets_iteration_and_inputs_a_later_one_too() -> None:
    early, late, tokens_in = Plus(), Plus(), torch.zeros(2, 3)
    pipeline = LossModifierPipeline([LossModifierPipeline([early])])
    assert (pipeline.iter_num, early.iter_num, pipeline.inputs, early.inputs) == (0, 0, None, None)
    pipeline.iter_num, pipeline.inputs = 12, tokens_in
    pipeline.add_modifier(late)

    assert (pipeline.iter_num, early.iter_num, late.iter_num) == (12, 12, 12)
    assert pipeline.inputs is early.inputs is late.inputs is tokens_in
    assert (Plus().iter_num, Plus().inputs) == (0, None)


def test_names_and_emptiness() -> None:
    pipeline = LossModifierPipeline()
    assert pipeline.is_empty() and pipeline.get_enabled_modifier_names() == []
    pipeline.add_modifier(Plus())
    pipeline.add_modifier(Times(2.0))

    assert not pipeline.is_empty() and pipeline.get_enabled_modifier_names() == ["Plus", "Times"]


def test_the_core_lines_names(inputs: tuple[torch.Tensor, ...]) -> None:
    pipeline = LossModifierPipeline([ZLossModifier()])

    assert torch.equal(pipeline.modify_loss(*inputs), pipeline.modify(*inputs))
    assert list(pipeline.get_all_metrics()) == ["ZLossModifier.z_loss"]
    pipeline.reset_all_metrics()
    assert pipeline.get_all_metrics() == {}


@pytest.mark.parametrize(
    ("training_type", "absent"),
    [
        ("language_model", {"SequenceScorerVarianceModifier", "SequenceScorerCorrelationModifier"}),
        ("unmasking", {"SequenceScorerVarianceModifier", "SequenceScorerCorrelationModifier"}),
        ("token_classification", {"SequenceScorerVarianceModifier", "SequenceScorerCorrelationModifier"}),
        ("sequence_scoring", {*every_token_modifier().get_enabled_modifier_names()} - {"MetricsCollectorModifier"}),
    ],
)
def test_each_training_type_has_its_modifiers(training_type: str, absent: set[str]) -> None:
    pipeline = LossModifierPipeline([*every_token_modifier().modifiers, *every_score_modifier().modifiers[:2]])
    kept = pipeline.for_training_type(training_type)

    assert {*pipeline.get_enabled_modifier_names()} - {*kept.get_enabled_modifier_names()} == absent
    assert kept.modifiers == [modifier for modifier in pipeline.modifiers if modifier in kept.modifiers]


def test_states_of_those_that_have_one_come_back() -> None:
    saved = every_token_modifier()
    for seed in (1, 2):
        saved.modify(*tokens(seed))
    state = saved.state_dict()
    fresh = every_token_modifier()
    fresh.load_state_dict({**state, "GoneModifier": {"x": 1}})
    for pipeline in (saved, fresh):
        pipeline.modify(*tokens(3))

    assert list(state) == ["EntropyPenaltyModifier", "MetricsCollectorModifier"]
    torch.testing.assert_close(fresh.metrics(), saved.metrics(), rtol=0, atol=0)


def test_a_modifier_without_a_saved_state_begins_afresh() -> None:
    pipeline, fresh = every_token_modifier(), every_token_modifier()
    pipeline.load_state_dict({})

    assert torch.equal(pipeline.modify(*tokens()), fresh.modify(*tokens()))
    torch.testing.assert_close(pipeline.metrics(), fresh.metrics(), rtol=0, atol=0)
