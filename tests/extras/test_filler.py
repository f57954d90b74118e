"""Filling masked positions with a frozen model, with the likeliest or with drawn tokens; others do not change."""

import pytest
import torch
from torch import nn

from extras.filler import Filler
from model import GPT, GPTConfig

TEXT, MASK = 4, 4


class FixedProbabilities(nn.Module):
    """An unmasking model with the same probabilities at every position; the mask token is the likeliest."""

    def __init__(self, probabilities: list[float]) -> None:
        super().__init__()
        self.logits = torch.tensor([*probabilities, 1000.0]).log()

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, None]:
        return self.logits.expand(*ids.shape, -1), None


IDS = torch.tensor([[0, MASK, 2], [MASK, MASK, 1]])
MASKED = IDS == MASK


def test_the_likeliest_text_token_fills_a_mask() -> None:
    filled = Filler(FixedProbabilities([0.1, 0.2, 0.1, 0.6]), TEXT).fill(IDS, MASKED, seed=0)

    assert filled.tolist() == [[0, 3, 2], [3, 3, 1]]
    assert IDS[0, 1] == MASK  # the input is not changed


def test_masked_positions_are_filled_whatever_their_token_id() -> None:
    ids = torch.tensor([[0, 1, 2]])  # 80/10/10 corruption keeps the token at some masked positions

    filled = Filler(FixedProbabilities([0.1, 0.2, 0.1, 0.6]), TEXT).fill(
        ids, torch.tensor([[False, True, False]]), seed=0
    )

    assert filled.tolist() == [[0, 3, 2]]


@pytest.mark.parametrize("sample", [False, True])
def test_without_masks_nothing_changes(sample: bool) -> None:
    ids = torch.tensor([[0, 1, 2]])

    assert torch.equal(
        Filler(FixedProbabilities([0.25] * 4), TEXT, sample).fill(ids, torch.zeros(1, 3, dtype=torch.bool), 0), ids
    )


def test_draws_follow_the_probabilities_and_the_seed() -> None:
    probabilities = [0.1, 0.2, 0.3, 0.4]
    filler = Filler(FixedProbabilities(probabilities), TEXT, sample=True, top_k=None)
    ids = torch.full((40, 100), MASK)
    before = torch.get_rng_state()

    filled, again, other = (filler.fill(ids, ids == MASK, seed) for seed in (3, 3, 4))

    assert torch.equal(filled, again) and not torch.equal(filled, other)
    assert torch.equal(torch.get_rng_state(), before)  # the global generator is not used
    for token, probability in enumerate(probabilities):
        sigma = (probability * (1 - probability) / ids.numel()) ** 0.5
        assert (filled == token).float().mean().item() == pytest.approx(probability, abs=4 * sigma)
    assert filled.max() < TEXT


def test_temperature_and_top_k_restrict_the_drawn_tokens() -> None:
    ids = torch.full((20, 100), MASK)
    cold = Filler(FixedProbabilities([0.1, 0.2, 0.3, 0.4]), TEXT, sample=True, temperature=0.01).fill(
        ids, ids == MASK, 0
    )
    top_two = Filler(FixedProbabilities([0.1, 0.2, 0.3, 0.4]), TEXT, sample=True, top_k=2).fill(ids, ids == MASK, 0)
    unlimited = Filler(FixedProbabilities([0.25] * 4), TEXT, sample=True, top_k=50).fill(ids, ids == MASK, 0)

    assert set(cold.flatten().tolist()) == {3}
    assert set(top_two.flatten().tolist()) == {2, 3}
    third = (top_two == 2).float().mean().item()
    assert third == pytest.approx(3 / 7, abs=4 * (3 / 7 * 4 / 7 / ids.numel()) ** 0.5)
    assert set(unlimited.flatten().tolist()) == {0, 1, 2, 3}


def test_each_position_gets_the_token_of_its_own_logits() -> None:
    """The model is certain of a different token at each position."""

    class ByPosition(nn.Module):
        def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, None]:
            wanted = torch.arange(ids.numel()).view_as(ids) % TEXT
            return 100.0 * nn.functional.one_hot(wanted, TEXT + 1), None

    for sample in (False, True):
        filled = Filler(ByPosition(), TEXT, sample).fill(IDS, MASKED, seed=0)
        assert filled.tolist() == [[0, 1, 2], [3, 0, 1]]


def test_the_model_is_frozen_and_in_evaluation_mode() -> None:
    model = GPT(GPTConfig(1, 1, 8, 4, vocab_size=TEXT + 1, dropout=0.5, attention_type="bidirectional")).train()
    ids = torch.full((2, 4), MASK)
    filler = Filler(model, TEXT)

    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(filler.fill(ids, ids == MASK, 0), filler.fill(ids, ids == MASK, 0))


def test_the_model_gets_its_own_mask_id() -> None:
    class RecordsIds(FixedProbabilities):
        def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, None]:
            self.seen = ids
            return super().forward(ids)

    model = RecordsIds([0.1, 0.2, 0.1, 0.6])
    filled = Filler(model, TEXT, renamed={MASK: 9}).fill(IDS, MASKED, seed=0)

    assert model.seen.tolist() == [[0, 9, 2], [9, 9, 1]] and filled.tolist() == [[0, 3, 2], [3, 3, 1]]
