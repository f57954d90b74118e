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
    more: dict[str, Any] = {"shuffle_buffer": 10} if streaming else {}
    source, data = open_rows(place, split_ratio=0.75, streaming=streaming, **more)
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


def test_duplicates_are_left_out_of_both_splits(place: Path) -> None:
    Path("rows.jsonl").write_text("".join(json.dumps({"text": f"the king {n % 12}"}) + "\n" for n in range(120)))
    source, data = open_rows(place, drop_duplicates=True, split_ratio=0.5, split_seed=3)
    training = texts(source, data.training)
    assert len(data.training) == len(training) == 6 and not training & texts(source, data.evaluation["val"])


def test_limits_and_padding_follow_the_options(place: Path) -> None:
    write_rows(Path("rows.jsonl"), 12)
    source, data = open_rows(place, max_input_length=2, pad_to_multiple_of=8)
    batch = data.get_batch("train")
    assert batch["input_ids"].shape[1] % 8 == 0
    assert all(int((row != -100).nonzero()[0]) <= 2 for row in batch["labels"])
    assert source.tokenizer.vocab_size == 300


def test_alpacas_three_columns_are_read(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "coregpt")
    rows = [{"instruction": "speak", "input": "" if n % 2 else f"of {n}", "output": "love"} for n in range(20)]
    Path("rows.jsonl").write_text("".join(json.dumps({**row, "id": 1}) + "\n" for row in rows))
    source, data = open_rows(place)
    shown = {source.tokenizer.decode(e.input_ids) for item in data.training.take(18) for e in item}
    assert "speak\n\nlove<|endoftext|>" in shown
    assert any(text.startswith("speak\n\nof ") and text.endswith("\n\nlove<|endoftext|>") for text in shown)
    assert "data: reads instruction, output, input, and not id" in caplog.messages


def test_a_stream_says_what_its_first_rows_hold(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "coregpt")
    write_rows(Path("rows.jsonl"), 20)
    open_rows(place, streaming=True)
    assert any(line.startswith("data: train, its first rows: ") for line in caplog.messages)
    assert any(line.startswith("data: example 1: ") for line in caplog.messages)
    with open("rows.jsonl", "a") as file:
        file.write("{no json\n")
    with pytest.raises(DataError, match="^the stream cannot be read beyond|^dataset=rows.jsonl cannot be read"):
        open_rows(place, streaming=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"packing": True, "pad_to_multiple_of": 8},
            "^pad_to_multiple_of has no effect here: packing=True pads",
        ),
        ({"shuffle_buffer": 5}, "^shuffle_buffer has no effect here: it is for streaming=True; remove it"),
        ({"subset_size": 5}, "^subset_size has no effect here: it is for use_subset=True"),
        ({"streaming": True, "use_subset": True}, "^use_subset has no effect here"),
        ({"streaming": True, "drop_duplicates": True}, "^drop_duplicates has no effect here"),
        ({"val_split": "train"}, "^val_split=train is the split that trains: give another one"),
    ],
)
def test_options_without_effect_are_refused(place: Path, changes: dict[str, Any], message: str) -> None:
    write_rows(Path("rows.jsonl"), 10)
    with pytest.raises(ConfigError, match=message):
        open_rows(place, **changes)


def test_a_position_in_another_order_is_not_taken(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_rows(Path("rows.jsonl"), 20)
    _, data = open_rows(place)
    for _ in range(3):
        data.get_batch("train")
    state = data.state_dict()
    for changes in ({"packing": True, "text_column": "text"}, {"streaming": True}, {"split_seed": 7}, {"seed": 2}):
        caplog.clear()
        _, other = open_rows(place, **changes)
        other.load_state_dict(state)
        assert any("the order of the rows is another" in line or "another order" in line for line in caplog.messages)
        assert other.state_dict()["given"] == 0
    _, same = open_rows(place, batch_size=3)
    same.load_state_dict(state)
    assert same.state_dict()["given"] == 1
