"""data/streaming/provider.py: rows become batches."""

import torch

from data.streaming.provider import cut_rows


def test_rows_are_cut_into_batches_with_their_metadata() -> None:
    inputs = torch.arange(12).view(4, 3)

    first, second = cut_rows(inputs, inputs[:, 0], 2, "sequence_scorer", ratio=[0.1, 0.2, 0.3, 0.4])

    assert second.tensors["input"].tolist() == [[6, 7, 8], [9, 10, 11]]
    assert second.tensors["target"].tolist() == [6, 9]
    assert first.metadata == {"model_mode": "sequence_scorer", "ratio": [0.1, 0.2]}
    assert second.tensors["input"].untyped_storage().nbytes() == 6 * 8  # not those of the complete file
