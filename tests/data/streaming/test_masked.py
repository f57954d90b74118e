"""data/streaming/masked.py: targets at masked positions, rows per stage, and the options of stages."""

from typing import Any

import pytest
import torch

from core.errors import ConfigError
from data.streaming.char_text import CharText
from data.streaming.masked import MaskedProvider, stages_by_split

SPAN = {"type": "span", "spans_count": 2, "val_loss_stale_count": 1}
RANDOM = {"type": "random", "max_masked_ratio": 0.5, "val_loss_stale_count": 1}
STICKY = {"type": "sticky", "target_masked_ratio": 0.5, "p1_probability": 0.2, "p2_probability": 0.5,
          "val_loss_stale_count": 1}  # fmt: skip
LINE = {"type": "line", "min_ratio": 0.2, "max_ratio": 0.6, "val_loss_stale_count": 1}


def whole_file(
    provider: MaskedProvider, split: str = "train", count: int = 20
) -> tuple[torch.Tensor, torch.Tensor, Any]:
    batches = provider.batches(split, count, torch.Generator().manual_seed(3))
    names = ("input", "target")
    inputs, targets = (torch.cat([batch.tensors[name] for batch in batches]) for name in names)
    return inputs, targets, [stage for batch in batches for stage in batch.metadata.get("stage_index", [])]


@pytest.mark.parametrize("line_aligned", [True, False])
def test_targets_are_the_text_where_it_is_masked_and_ignored_elsewhere(text: CharText, line_aligned: bool) -> None:
    provider = MaskedProvider(text, 8, 32, line_aligned=line_aligned, ignore_index=-7)
    inputs, targets, _ = whole_file(provider)
    masked = targets != -7

    original = torch.where(masked, targets, inputs)
    windows = text.windows("train", 32, line_aligned)
    tokens, lengths = windows.draw(160, torch.Generator().manual_seed(3))
    rows = {str(row) for row in tokens.tolist()}
    assert {str(row) for row in original.tolist()} == rows
    assert (targets[masked] < text.base_size).all()
    content = lengths.sum().item()
    assert abs(masked.sum().item() / content - 0.15) < 3 * (0.15 * 0.85 / content) ** 0.5
    hidden = (inputs == text.mask_id).sum().item() / masked.sum().item()
    assert abs(hidden - 0.8) < 3 * (0.16 / masked.sum().item()) ** 0.5


def test_stages_have_equal_shares_of_a_file_in_mixed_order(text: CharText) -> None:
    stages = stages_by_split(True, [STICKY, RANDOM, SPAN], [LINE], 32)
    provider = MaskedProvider(text, 8, 32, stages)
    inputs, targets, stage = whole_file(provider)

    assert [stage.count(number) for number in range(3)] == [54, 53, 53]
    assert stage != sorted(stage)
    sticky = torch.tensor(stage) == 0
    content = (torch.where(targets != -100, targets, inputs) != text.pad_id).sum(dim=1)
    assert torch.equal((targets != -100).sum(dim=1)[sticky], torch.ceil(content * 0.5).long()[sticky])
    spans = torch.tensor(stage) == 2
    assert (inputs[spans][targets[spans] != -100] == text.mask_id).all()  # all of a span becomes [MASK]
    assert set(whole_file(provider, "val")[2]) == {0}


def test_without_the_switch_stages_are_not_used(text: CharText) -> None:
    assert stages_by_split(None, [STICKY], [STICKY], 32) is None


def test_a_mistake_in_unused_stages_is_refused(text: CharText) -> None:
    with pytest.raises(ConfigError, match=r"validation_stages\[0\]"):
        stages_by_split(None, [STICKY], [{"type": "foo"}], 32)


@pytest.mark.parametrize(
    ("switch", "training", "validation", "reason"),
    [
        (False, [STICKY], [STICKY], "always mixes all stages"),
        (True, [], [STICKY], "needs unmasking_stages"),
        (True, [STICKY], None, "needs validation_stages"),
        (True, [{"type": "sticky"}], [STICKY], r"unmasking_stages\[0\]"),
        (True, [STICKY], [{**SPAN, "spans_count": 40}], r"validation_stages\[0\] .* spans_count"),
        (True, [LINE], [STICKY], "newline"),
    ],
)
def test_wrong_stages_are_refused(switch: Any, training: Any, validation: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        stages_by_split(switch, training, validation, 32, has_newline=False)


def test_meta_says_what_a_trainer_needs(text: CharText) -> None:
    meta = MaskedProvider(text, 8, 32).meta

    assert meta["training_type"] == "MLM"
    assert meta["mask_token_id"] == text.mask_id and meta["vocab_size"] == text.vocab_size
    assert [(entry["name"], entry["shape"]) for entry in meta["batch_schema"]] == [("input", [32]), ("target", [32])]


@pytest.mark.parametrize("line_aligned", [False, True])
def test_every_batch_has_something_to_predict(text: CharText, line_aligned: bool) -> None:
    """Without a masked position the mean loss is undefined; small batches with few masks are common."""
    source = MaskedProvider(text, 1, 32, mask_probability=0.02, line_aligned=line_aligned)
    batches = source.batches("train", 200, torch.Generator().manual_seed(0))
    counts = [int((batch.tensors["target"] >= 0).sum()) for batch in batches]

    assert min(counts) == 1 and sum(count == 1 for count in counts) > 120  # of which about 70 by chance
    for batch in batches:
        chosen = batch.tensors["target"] >= 0
        assert (batch.tensors["target"][chosen] < text.base_size).all()  # text, and no padding
