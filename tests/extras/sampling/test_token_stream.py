"""Tokens one by one: those that one call of the model's generate draws."""

import pytest
import torch

from extras.sampling.token_stream import stream_tokens
from model import GPT

CPU = torch.device("cpu")


@pytest.mark.parametrize(("temperature", "top_k"), [(0.8, 5), (2.0, None), (0.0, None)])
@pytest.mark.parametrize("prompt", [[3], [1, 2, 3] * 8])  # of more than the block_size, too
def test_the_tokens_are_those_of_generate(
    tiny_model: GPT, prompt: list[int], temperature: float, top_k: int | None
) -> None:
    tiny_model.eval()
    torch.manual_seed(5)
    expected = tiny_model.generate(torch.tensor([prompt]), 30, temperature, top_k)[0, len(prompt) :].tolist()
    torch.manual_seed(5)

    tokens = stream_tokens(tiny_model, prompt, CPU, max_new_tokens=30, temperature=temperature, top_k=top_k)

    assert list(tokens) == expected


def test_a_token_is_sampled_when_it_is_asked_for() -> None:
    class Fork:
        """Has no other method than nanoGPT's `generate`."""

        def generate(self, idx: torch.Tensor, max_new_tokens: int, temperature: float, top_k: int | None) -> object:
            lengths.append(idx.size(1))
            assert (max_new_tokens, temperature, top_k) == (1, 0.5, 7)
            return torch.cat([idx, idx[:, -1:] + 1], dim=1)

    lengths: list[int] = []
    tokens = stream_tokens(Fork(), [4, 5], CPU, max_new_tokens=3, temperature=0.5, top_k=7)

    assert (next(tokens), lengths) == (6, [2])
    assert (list(tokens), lengths) == ([7, 8], [2, 3, 4])
