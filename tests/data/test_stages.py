"""Stages: what their dicts mean, what is refused and in which words, and batches masked by several of them."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ConfigError
from data.masking import line_mask, random_mask, span_mask, sticky_mask, uniform_mask
from data.stages import (
    LineStage,
    RandomStage,
    SpanStage,
    Stage,
    StickyStage,
    UniformStage,
    check_stages,
    create_stage_objects,
    mask_rows,
    rows_per_stage,
)

VOCAB, MASK_ID, NEWLINE = 11, 11, 0

STICKY = {
    "type": "sticky",
    "target_masked_ratio": 0.4,
    "p1_probability": 0.15,
    "p2_probability": 0.3,
    "val_loss_stale_count": 6,
}
RANDOM = {"type": "random", "max_masked_ratio": 0.5, "val_loss_stale_count": 10}
SPAN = {"type": "span", "spans_count": 20, "val_loss_stale_count": 0}
LINE = {"type": "line", "min_ratio": 0.1, "max_ratio": 0.45, "val_loss_stale_count": 2}
UNIFORM = {"type": "uniform", "mask_probability": 0.15, "val_loss_stale_count": 1}

STAGES: list[Stage] = [
    StickyStage(0.4, 0.15, 0.3, 6),
    RandomStage(0.5, 10),
    SpanStage(20, 0),
    LineStage(0.1, 0.45, 2),
    UniformStage(0.15, 1),
]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def words(rows: int, width: int) -> torch.Tensor:
    return torch.randint(VOCAB, (rows, width), generator=seeded(0))


def refusal(dicts: Any, where: str = "unmasking_stages") -> str:
    with pytest.raises(ConfigError) as caught:
        create_stage_objects(dicts, where)
    return str(caught.value)


# from dicts


def test_each_dict_gives_its_stage() -> None:
    assert create_stage_objects([STICKY, RANDOM, SPAN, LINE, UNIFORM]) == STAGES


@pytest.mark.parametrize("empty", [None, [], ()])
def test_no_dicts_no_stages(empty: Any) -> None:
    assert create_stage_objects(empty) == []


def test_what_the_stages_say() -> None:
    assert [stage.describe() for stage in STAGES] == [
        "sticky, target 0.40, p1 0.15, p2 0.30",
        "random, up to 0.50",
        "span, 20 spans",
        "line, 0.10 to 0.45 of the lines",
        "uniform, 0.15",
    ]
    assert SpanStage(1, 0).describe() == "span, 1 span"
    assert StickyStage(0.125, 0.003, 1.0, 0).describe() == "sticky, target 0.125, p1 0.003, p2 1.00"


def test_only_spans_are_hidden_altogether() -> None:
    assert {stage.type: stage.corrupts for stage in STAGES} == {
        "sticky": True,
        "random": True,
        "span": False,
        "line": True,
        "uniform": True,
    }


def test_a_stage_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        STAGES[0].val_loss_stale_count = 1


@pytest.mark.parametrize("value", [0, 1, 0.0, 1.0, "1e-1"])
def test_the_bounds_and_yaml_text_are_numbers(value: Any) -> None:
    (stage,) = create_stage_objects([RANDOM | {"max_masked_ratio": value}])

    assert isinstance(stage, RandomStage)
    assert stage.max_masked_ratio == float(value) and isinstance(stage.max_masked_ratio, float)


def test_a_stale_count_may_be_missing_in_validation_alone() -> None:
    short = {name: value for name, value in STICKY.items() if name != "val_loss_stale_count"}

    assert create_stage_objects([short], "validation_stages") == [StickyStage(0.4, 0.15, 0.3, 0)]
    assert create_stage_objects([STICKY], "validation_stages") == [StickyStage(0.4, 0.15, 0.3, 6)]
    assert refusal([short]) == f"unmasking_stages[0], {short!r}: val_loss_stale_count is missing"


@pytest.mark.parametrize("stage", [STICKY, RANDOM, SPAN, LINE])
def test_each_missing_field_is_named(stage: dict[str, Any]) -> None:
    for name in stage:
        entry = {key: value for key, value in stage.items() if key != name}
        assert f"unmasking_stages[1], {entry!r}: {name} is missing" in refusal([RANDOM, entry])


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), float("inf"), None, True, "half", [0.5]])
@pytest.mark.parametrize(
    ("stage", "name"),
    [
        (STICKY, "target_masked_ratio"),
        (STICKY, "p1_probability"),
        (STICKY, "p2_probability"),
        (RANDOM, "max_masked_ratio"),
        (LINE, "min_ratio"),
        (LINE, "max_ratio"),
        (UNIFORM, "mask_probability"),
    ],
)
def test_a_share_is_between_0_and_1(stage: dict[str, Any], name: str, value: Any) -> None:
    entry = stage | {name: value}

    assert refusal([entry]).endswith(f": {name} is {value!r}, wanted a number from 0 to 1")


def test_a_sticky_mask_has_to_begin_somewhere() -> None:
    refused = refusal([STICKY | {"p1_probability": 0.0}])

    assert refused.endswith(": p1_probability is 0.0, wanted more than 0: nothing would ever be masked")
    assert create_stage_objects([STICKY | {"p2_probability": 0.0}])


@pytest.mark.parametrize(("name", "least"), [("spans_count", 1), ("val_loss_stale_count", 0)])
def test_a_count_is_a_whole_number(name: str, least: int) -> None:
    for value in (least - 1, 2.0, True, "3", None):
        assert refusal([SPAN | {name: value}]).endswith(
            f": {name} is {value!r}, wanted a whole number of {least} or more"
        )
    assert create_stage_objects([SPAN | {name: least}])


@pytest.mark.parametrize("kind", ["stikcy", None, 3, ["sticky"]])
def test_an_unknown_type_lists_the_known_ones(kind: Any) -> None:
    entry = STICKY | {"type": kind}

    message = refusal([entry])
    assert message.endswith(f": type is {kind!r}, wanted one of sticky, random, span, line, uniform")


def test_an_unknown_field_lists_the_known_ones() -> None:
    message = refusal([SPAN | {"span_count": 3}])

    assert message.endswith(": 'span_count' is unknown, wanted spans_count, val_loss_stale_count")


def test_the_smaller_share_of_lines_comes_first() -> None:
    message = refusal([LINE | {"min_ratio": 0.5}])

    assert message.endswith(": min_ratio is 0.5, wanted max_ratio=0.45 or less")


def test_all_mistakes_are_told_at_once() -> None:
    first, third = {"type": "random", "max_masked_ratio": 2}, {"type": "spam"}

    assert refusal([first, STICKY, third]).splitlines() == [
        f"unmasking_stages[0], {first!r}: val_loss_stale_count is missing; "
        "max_masked_ratio is 2, wanted a number from 0 to 1",
        f"unmasking_stages[2], {third!r}: type is 'spam', wanted one of sticky, random, span, line, uniform",
    ]


@pytest.mark.parametrize("wrong", [STICKY, "sticky", 3])
def test_only_a_list_will_do(wrong: Any) -> None:
    assert "validation_stages is" in refusal(wrong, "validation_stages")


def test_only_a_list_of_dicts_will_do() -> None:
    assert refusal(["sticky"]) == "unmasking_stages[0], 'sticky': wanted a dict with a type and its fields"


# against the block size


def test_more_spans_than_tokens_are_refused() -> None:
    check_stages(STAGES, 20)

    with pytest.raises(ConfigError, match=r"^unmasking_stages\[2\] \(span, 20 spans\): spans_count is 20, wanted 19"):
        check_stages(STAGES, 19)


def test_lines_need_a_newline() -> None:
    with pytest.raises(ConfigError, match=r"^unmasking_stages\[3\] \(line, 0.10 to 0.45 of the lines\): .* no newline"):
        check_stages(STAGES, 100, has_newline=False)
    with pytest.raises(ConfigError, match="newline"):
        STAGES[3].mask(words(2, 10), seeded(0))
    check_stages(STAGES[:3], 100, has_newline=False)


# masks


def test_each_stage_uses_its_strategy() -> None:
    tokens, lengths = words(6, 100), torch.tensor([0, 1, 50, 99, 100, 7])

    masks = [stage.mask(tokens, seeded(1), lengths, NEWLINE) for stage in STAGES]

    expected = [
        sticky_mask(tokens, 0.4, 0.15, 0.3, seeded(1), lengths),
        random_mask(tokens, 0.5, seeded(1), lengths),
        span_mask(tokens, 20, seeded(1), lengths),
        line_mask(tokens, NEWLINE, 0.1, 0.45, seeded(1), lengths),
        uniform_mask(tokens, 0.15, seeded(1), lengths),
    ]
    assert all(torch.equal(*pair) for pair in zip(masks, expected, strict=True))


@given(rows=st.integers(0, 100), count=st.integers(1, 20))
def test_rows_are_shared_evenly(rows: int, count: int) -> None:
    shares = rows_per_stage(rows, [RandomStage(0.5, 0)] * count)

    assert sum(shares) == rows and len(shares) == count
    assert shares == sorted(shares, reverse=True) and shares[0] - shares[-1] <= 1


def test_the_first_stages_take_what_is_left() -> None:
    assert rows_per_stage(20, STAGES[:3]) == [7, 7, 6]
    assert rows_per_stage(2, STAGES[:3]) == [1, 1, 0]


def test_rows_are_masked_by_their_stages_in_order() -> None:
    tokens, lengths = words(12, 100), torch.arange(89, 101)

    _, mask, stage_index = mask_rows(
        tokens, STAGES, seeded(2), mask_token_id=MASK_ID, vocab_size=VOCAB, newline_id=NEWLINE, lengths=lengths
    )

    assert stage_index.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4] and stage_index.dtype == torch.int64
    draw = seeded(2)
    slices = [slice(0, 3), slice(3, 6), slice(6, 8), slice(8, 10), slice(10, 12)]
    for stage, rows in zip(STAGES, slices, strict=True):
        assert torch.equal(mask[rows], stage.mask(tokens[rows], draw, lengths[rows], NEWLINE))


def test_spans_are_hidden_and_the_others_corrupted() -> None:
    tokens = words(100, 200)

    inputs, mask, stage_index = mask_rows(
        tokens, [SpanStage(3, 0), UniformStage(0.5)], seeded(3), mask_token_id=MASK_ID, vocab_size=VOCAB
    )

    spans = stage_index == 0
    assert torch.equal(inputs[~mask], tokens[~mask])
    assert (inputs[spans][mask[spans]] == MASK_ID).all()
    share = (inputs[~spans][mask[~spans]] == MASK_ID).double().mean().item()
    assert abs(share - 0.8) < 3 * (0.16 / 5000) ** 0.5
    assert inputs.max() == MASK_ID and inputs.dtype == torch.int64


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 8),
    width=st.sampled_from([1, 2, 30]),
    stages=st.lists(st.sampled_from(STAGES), min_size=1, max_size=9),
    seed=st.integers(0, 2**31),
    cut=st.booleans(),
)
def test_any_mixture_leaves_unmasked_tokens_and_padding_alone(
    rows: int, width: int, stages: list[Stage], seed: int, cut: bool
) -> None:
    tokens = words(rows, width)
    lengths = torch.randint(width + 1, (rows,), generator=seeded(seed + 1)) if cut else None
    original, state = tokens.clone(), torch.get_rng_state()
    kwargs: dict[str, Any] = dict(mask_token_id=MASK_ID, vocab_size=VOCAB, newline_id=NEWLINE, lengths=lengths)

    inputs, mask, stage_index = mask_rows(tokens, stages, seeded(seed), **kwargs)
    again = mask_rows(tokens, stages, seeded(seed), **kwargs)

    assert inputs.shape == mask.shape == tokens.shape and stage_index.shape == (rows,)
    assert torch.equal(inputs[~mask], tokens[~mask]) and torch.equal(tokens, original)
    if lengths is not None:
        assert not (mask & (torch.arange(width) >= lengths[:, None])).any()
    assert all(torch.equal(*pair) for pair in zip((inputs, mask, stage_index), again, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_what_each_stage_aims_at() -> None:
    assert [stage.target() for stage in STAGES] == ["0.4", "0-0.5", "about 0.5", "0.1-0.45", "0.15"]
