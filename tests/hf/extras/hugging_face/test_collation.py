"""Rows as batches: padding is never learnt and an end token is, and packed rows do not see each other."""

from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from core.errors import ConfigError
from data.rows.encoding import IGNORED, Example
from extras.hugging_face.collation import packing_collate, padding_collate, require_separate_rows
from extras.hugging_face.model import HuggingFaceModel
from tests.hf.conftest import VOCAB, make_gpt2, make_llama, make_tokenizer

LONG, SHORT = Example([5, 6, 7, 0], [IGNORED, 6, 7, 0]), Example([8, 0], [8, 0])


def test_padding_is_masked_by_its_place_and_not_by_its_id() -> None:
    """The padding token is the end token, and the end tokens of the rows are learnt."""
    batch = padding_collate(make_tokenizer())([[LONG], [SHORT]])

    assert batch["input_ids"].tolist() == [[5, 6, 7, 0], [8, 0, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 6, 7, 0], [8, 0, IGNORED, IGNORED]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    wider = padding_collate(make_tokenizer(), pad_to_multiple_of=8)([[SHORT]])
    assert wider["input_ids"].shape == wider["labels"].shape == (1, 8)


def test_a_tokenizer_without_end_or_padding_pads_with_id_0() -> None:
    plain = PreTrainedTokenizerFast(tokenizer_object=make_tokenizer().backend_tokenizer)
    assert padding_collate(plain)([[LONG], [SHORT]])["attention_mask"].sum() == 6


def test_packed_rows_begin_at_0_and_their_first_token_is_not_learnt() -> None:
    batch = packing_collate(8, 9)([[LONG, SHORT], [SHORT]])

    assert batch["input_ids"].tolist() == [[5, 6, 7, 0, 8, 0, 9, 9], [8, 0, 9, 9, 9, 9, 9, 9]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 0, 1], [0, 1, 0, 1, 2, 3, 4, 5]]
    ignored = IGNORED
    assert batch["labels"].tolist() == [[ignored, 6, 7, 0, ignored, 0, ignored, ignored], [ignored, 0, *[ignored] * 6]]
    assert "attention_mask" not in batch


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("make", [make_gpt2, make_llama])
def test_a_row_in_a_pack_has_the_logits_of_the_row_alone(make: Any, kernel: str) -> None:
    model = HuggingFaceModel(make(attn_implementation=kernel)).eval()
    rows = [Example(list(range(start, start + size)), [0] * size) for start, size in ((3, 5), (40, 9), (90, 2))]
    batch = packing_collate(16, 0)([rows, rows[::-1]])

    packed = model(**batch)
    for place, order in enumerate((rows, rows[::-1])):
        start = 0
        for row in order:
            end = start + len(row.input_ids)
            ids = torch.tensor([row.input_ids])
            alone = model(input_ids=ids, labels=ids)[0]
            torch.testing.assert_close(packed[place, start:end], alone, rtol=1e-5, atol=1e-5)
            start = end
    require_separate_rows(model, VOCAB)


def test_rows_that_see_each_other_are_refused() -> None:
    class Leaks(HuggingFaceModel):
        def logits(self, labels: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
            del inputs["position_ids"]
            return super().logits(labels, **inputs)

    model = Leaks(make_gpt2()).train()
    with pytest.raises(ConfigError, match="^packing=True: in this model the rows of a sequence see each other"):
        require_separate_rows(model, VOCAB)
    assert model.training
