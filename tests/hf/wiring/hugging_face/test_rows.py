"""Rows made from the options: which train, which validate, with which tokenizer. See also tests/hf/test_rows.py."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from config.options import Options
from core import ConfigError, DataError, RunFolder, Runtime
from data.rows.items import TableItems
from tests.hf.conftest import make_tokenizer
from tests.hf.test_rows import write_rows
from wiring.hugging_face.rows import RowSource, open_row_data
from wiring.start import RunStart


def open_rows(place: Path, model: str = "gpt2", **changes: Any) -> tuple[RowSource, Any]:
    values = {"device": "cpu", "block_size": 32, "batch_size": 2, "gradient_accumulation_steps": 1, **changes}
    options = Options(**{"dataset": "rows.jsonl", **values})
    start = RunStart(f"hf:{model}", None, RunFolder("out"))
    return open_row_data(options, Runtime(device="cpu"), start)


def texts(source: RowSource, items: Any) -> set[str]:
    count = len(items) if isinstance(items, TableItems) else 40
    return {source.tokenizer.decode(example.input_ids) for item in items.take(count) for example in item}


@pytest.mark.parametrize("streaming", [False, True])
def test_a_share_of_the_rows_validates(place: Path, streaming: bool) -> None:
    write_rows(Path("rows.jsonl"), 40)
    source, data = open_rows(place, split_ratio=0.75, streaming=streaming, shuffle_buffer=10)
    training, validation = texts(source, data.training), texts(source, data.evaluation["val"])

    assert not training & validation and len(training | validation) == 40
    if not streaming:
        assert len(validation) == 10 and data.eval_iters == 5
    other, _ = open_rows(place, split_ratio=0.75, split_seed=7)
    assert texts(other, open_rows(place, split_ratio=0.75, split_seed=7)[1].evaluation["val"]) != validation


def test_a_split_of_its_own_validates(place: Path) -> None:
    Path("set").mkdir()
    write_rows(Path("set/train.jsonl"), 6)
    Path("set/test.jsonl").write_text('{"text": "love"}\n')
    source, data = open_rows(place, dataset="hf:set", text_column="text")
    assert texts(source, data.evaluation["val"]) == {"love<|endoftext|>"} and len(data.training) == 6


def test_quality_and_subset_choose_rows(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "coregpt")
    with open("rows.jsonl", "w") as file:
        for number, quality in enumerate([0.9, 0.1, None, 0.6, "high", 0.7] * 10):
            file.write(json.dumps({"text": f"the king {number}", "quality_score": quality}) + "\n")
    source, data = open_rows(place, min_quality_score=0.6, split_ratio=0.5)
    kept = texts(source, data.training) | texts(source, data.evaluation["val"])
    assert {int(text.split()[2].split("<")[0]) % 6 for text in kept} == {0, 3, 5} and len(kept) == 30
    assert any("dropped below min_quality_score" in line for line in caplog.messages)

    source, data = open_rows(place, use_subset=True, subset_size=10, split_ratio=0.8)
    numbers = {int(text.split()[2].split("<")[0]) for text in texts(source, data.training)}
    assert len(numbers) == 8 and max(numbers) < 10


def test_the_tokenizer_is_the_models_or_the_one_that_is_given(place: Path) -> None:
    write_rows(Path("rows.jsonl"), 10)
    source, _ = open_rows(place, "t5", tokenizer="gpt2")
    assert source.vocab_size == make_tokenizer().vocab_size and not source.shifts
    source.check_vocab(300)
    with pytest.raises(DataError, match="^the tokenizer has 300 ids, the model 200: give the model's own tokenizer"):
        source.check_vocab(200)
    with pytest.raises(ConfigError, match="^rows of text need a tokenizer, and hf:t5 has none: set tokenizer=NAME or"):
        open_rows(place, "t5")


def test_a_model_with_an_encoder_needs_pairs(place: Path) -> None:
    Path("rows.jsonl").write_text('{"text": "love"}\n' * 4)
    with pytest.raises(ConfigError, match="^a model with an encoder needs prompts and responses: set prompt_column"):
        open_rows(place, "t5", tokenizer="gpt2")


def test_a_tokenizer_without_an_end_token_is_said(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    from transformers import PreTrainedTokenizerFast

    write_rows(Path("rows.jsonl"), 10)
    PreTrainedTokenizerFast(tokenizer_object=make_tokenizer().backend_tokenizer).save_pretrained("plain")
    open_rows(place, tokenizer="plain")
    assert "data: the tokenizer has no end token: the model cannot learn where a text ends" in caplog.messages
