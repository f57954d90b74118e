"""data/streaming/sticky_rounds.py: masks that grow from row to row."""

import pytest
import torch

from data.streaming.char_text import CharText
from data.streaming.sticky_rounds import StickyRoundsProvider


@pytest.mark.parametrize(("batch_size", "rounds"), [(6, 3), (7, 3), (4, 1), (2, 5)])
def test_each_round_masks_more_of_the_same_row(text: CharText, batch_size: int, rounds: int) -> None:
    provider = StickyRoundsProvider(text, batch_size, 24, max_rounds=rounds)
    for batch in provider.batches("train", 3, torch.Generator().manual_seed(1)):
        inputs, targets = batch.tensors["input"], batch.tensors["target"]
        assert inputs.shape == targets.shape == (batch_size, 24)
        assert batch.metadata["round_index"] == [row % rounds for row in range(batch_size)]
        original = torch.where(targets != -100, targets, inputs)
        for row in range(batch_size):
            masked = targets[row] != -100
            assert not (original[row] == text.mask_id).any()
            if row % rounds:
                before = targets[row - 1] != -100
                assert torch.equal(original[row], original[row - 1])
                assert (masked & ~before).any() and not (before & ~masked).any()
                assert torch.equal(inputs[row][before], inputs[row - 1][before])  # stays as it was corrupted


def test_probabilities_of_zero_still_mask_one_position_a_round(text: CharText) -> None:
    provider = StickyRoundsProvider(text, 4, 24, p1_probability=0.0, p2_probability=0.0, max_rounds=4)
    (batch,) = provider.batches("train", 1, torch.Generator().manual_seed(1))

    assert (batch.tensors["target"] != -100).sum(dim=1).tolist() == [1, 2, 3, 4]


def test_padding_is_never_masked_and_a_full_row_stays_full(text: CharText) -> None:
    provider = StickyRoundsProvider(text, 40, 60, p1_probability=1.0, p2_probability=1.0, max_rounds=2)
    (batch,) = provider.batches("train", 1, torch.Generator().manual_seed(1))
    padding = batch.tensors["input"] == text.pad_id

    assert padding.any()
    assert torch.equal(batch.tensors["target"] == -100, padding)


def test_a_neighbour_of_a_masked_position_follows_with_p2(text: CharText) -> None:
    provider = StickyRoundsProvider(text, 1, 24, p1_probability=0.0, p2_probability=1.0, line_aligned=False)
    mask = torch.zeros(1, 24, dtype=torch.bool)
    mask[0, [0, 10]] = True

    new = provider._newly_masked(mask, torch.tensor([24]), torch.Generator().manual_seed(0))

    assert new.nonzero()[:, 1].tolist() == [1, 9, 11]


@pytest.mark.parametrize("line_aligned", [False, True])
def test_the_largest_id_that_occurs_is_told(text: CharText, line_aligned: bool) -> None:
    provider = StickyRoundsProvider(text, 4, 16, line_aligned=line_aligned)
    batches = provider.batches("train", 9, torch.Generator().manual_seed(0))

    assert provider.meta["largest_token_id"] == max(int(batch.tensors["input"].max()) for batch in batches)
