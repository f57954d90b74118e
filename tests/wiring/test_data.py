"""Where batches come from: a text or a queue, and how texts are cut and masked as the options say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import core
from core import ConfigError, DataError
from data.meta import read_meta, write_meta
from data.streaming.consumer import DatasetConsumer
from data.token_bins import TokenBins
from tests.data.streaming.conftest import content
from tests.wiring.tiny_task import QUEUED, SCORING, STAGES, TEXT, fill_queue, task

# which of them


def test_batches_come_from_a_queue_where_there_is_one(run: core.Runtime) -> None:
    folder = fill_queue("queued", "unmasking")
    run.rank, run.world_size = 1, 2
    filling = task(
        run, dataset="queued", training_type="unmasking", data_wait_sleep_seconds=0.5, data_wait_timeout_seconds=7
    )

    data = filling.data
    assert isinstance(data, DatasetConsumer) and data is filling.source and data.folder == folder
    assert (data.batch_size, data.block_size) == (4, 16)
    assert (data.rank, data.world_size) == (1, 2)
    assert (data.wait_sleep_seconds, data.wait_timeout_seconds) == (0.5, 7)
    batch: Any = data.get_batch("train")
    assert batch["input"].tolist() == content(folder)[3]  # the first of the second file: the other rank has the first


@pytest.mark.parametrize("training_type", ["language_model", "unmasking", "sequence_scoring", "token_classification"])
@pytest.mark.parametrize("made_for", QUEUED)
def test_a_queue_serves_what_it_is_made_for_alone(run: core.Runtime, made_for: str, training_type: str) -> None:
    fill_queue("queued", made_for)

    if made_for == training_type:
        assert task(run, dataset="queued", training_type=training_type).found.is_queue
    else:
        with pytest.raises(ConfigError, match=f"is made for training_type={made_for}, not {training_type}: set"):
            task(run, dataset="queued", training_type=training_type)


def test_with_both_a_text_and_a_queue_the_choice_is_the_users(run: core.Runtime) -> None:
    fill_queue("tiny", "language_model")

    with pytest.raises(ConfigError, match="set data_source=bins or data_source=queue"):
        task(run)
    assert isinstance(task(run, data_source="queue").data, DatasetConsumer)
    text = task(run, data_source="bins")
    assert isinstance(text.data, TokenBins) and not text.found.is_queue


@pytest.mark.parametrize(("source", "there", "missing"), [("queue", "tiny", "no queue at"), ("bins", "queued", "bin")])
def test_a_data_source_that_is_not_there(run: core.Runtime, source: str, there: str, missing: str) -> None:
    fill_queue("queued", "language_model")

    with pytest.raises(DataError, match=missing):
        task(run, dataset=there, data_source=source)


def test_a_queue_for_two_heads_is_for_no_run(run: core.Runtime) -> None:
    folder = fill_queue("queued", "unmasking")
    write_meta(folder / "meta.pkl", {**read_meta(folder / "meta.pkl"), "training_type": "DUAL_MODE"})

    with pytest.raises(ConfigError, match="mixes batches for two heads, which no run learns from: fill another"):
        task(run, dataset="queued", training_type="unmasking")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, []),
        ({"data_source": "bins"}, ["data: from data/tiny/train.bin"]),
        ({"training_type": "unmasking"}, ["data: from data/tiny/train.bin"]),
        ({"training_type": "unmasking", "dataset": "queued"}, ["data: from data/queued/queue"]),
    ],
)
def test_where_batches_come_from_is_said(
    run: core.Runtime, options: dict[str, Any], said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    fill_queue("queued", "unmasking")
    caplog.clear()
    with caplog.at_level("INFO", logger="coregpt"):
        task(run, **options)

    assert caplog.messages == said


def test_a_folder_that_is_to_be_filled_says_so(run: core.Runtime) -> None:
    Path("data/new").mkdir()
    Path("data/new/prepare_streaming.py").touch()
    with pytest.raises(
        ConfigError, match=r"^data/new holds no batches yet: run `python data/new/prepare_streaming\.py"
    ):
        task(run, dataset="new")
    with pytest.raises(DataError, match=r"train\.bin"):
        task(run, dataset="new", data_source="bins")


# what is made of the text


TABLE = {"a": 0, "b": 1, "\n": 2}


@pytest.mark.parametrize(
    ("meta", "newline"),
    [
        ({"vocab_size": 3, "stoi": TABLE, "itos": {i: c for c, i in TABLE.items()}}, 2),
        ({"vocab_size": 2, "stoi": {"a": 0, "b": 1}, "itos": {0: "a", 1: "b"}}, None),
        ({"vocab_size": 256, "stoi": {chr(i): i for i in range(256)}, "itos": {i: chr(i) for i in range(256)},
          "tokenizer": "byte"}, 10),
        ({"vocab_size": 300}, None),
        ({"vocab_size": 50257, "tokenizer": "gpt2"}, 198),
    ],
    ids=["characters", "characters without one", "bytes", "numbers", "GPT-2 by name"],
)  # fmt: skip
def test_the_newline_is_found_in_every_kind_of_meta(
    run: core.Runtime, tiny_bins: Path, meta: dict[str, Any], newline: int | None
) -> None:
    write_meta(tiny_bins / "meta.pkl", meta)

    assert task(run, training_type="unmasking").data.newline_id == newline


def test_without_a_newline_there_are_no_lines(run: core.Runtime, tiny_bins: Path) -> None:
    write_meta(tiny_bins / "meta.pkl", {"vocab_size": TEXT})
    lines = [{"type": "line", "min_ratio": 0.1, "max_ratio": 0.5, "val_loss_stale_count": 1}]

    with pytest.raises(ConfigError, match="the vocabulary has no newline, so there are no lines"):
        task(run, training_type="unmasking", unmasking_stages=lines)
    with pytest.raises(ConfigError, match="need a newline in the vocabulary"):
        task(run, training_type="unmasking", enable_line_aligned_sequences=True)


def test_texts_may_begin_at_a_line_and_end_in_padding(run: core.Runtime) -> None:
    filling = task(run, training_type="unmasking", enable_line_aligned_sequences=True)

    batch = filling.data.get_batch("train")

    original = batch["target"].where(batch["target"] >= 0, batch["input"])
    assert all(row[-1] in (0, filling.vocabulary.pad) or 0 not in row for row in original.tolist())
    assert (batch["target"] < TEXT).all()


@pytest.mark.parametrize(
    ("options", "starts"),
    [
        ({}, [*range(385)]),
        ({"use_paragraph_boundaries": True}, [50]),
        ({"enable_line_aligned_sequences": True}, [0, 52]),
        ({"enable_line_aligned_sequences": True, "use_paragraph_boundaries": True}, [0, 52]),
    ],
)
@pytest.mark.parametrize("training_type", ["unmasking", "token_classification"])
def test_texts_begin_where_the_options_say(
    run: core.Runtime, tiny_bins: Path, training_type: str, options: dict[str, Any], starts: list[int]
) -> None:
    tokens = (np.arange(400) % 16 + 1).astype(np.uint16)
    tokens[50:52] = 0  # two newlines, the only ones
    for split in ("train", "val"):
        tokens.tofile(tiny_bins / f"{split}.bin")

    data = task(run, training_type=training_type, **options).data

    assert {split: list(windows.starts) for split, windows in data.windows.items()} == {"train": starts, "val": starts}


def test_validation_has_stages_of_its_own_if_they_are_given(run: core.Runtime) -> None:
    stages = [{"type": "span", "spans_count": 3}]
    data = task(run, training_type="unmasking", unmasking_stages=STAGES, validation_stages=stages).data

    assert [stage.describe() for stage in data.validation] == ["span, 3 spans"]
    assert len(data.training) == 2


@pytest.mark.parametrize(("training_type", "spans"), [("unmasking", 17), ("sequence_scoring", 16)])
@pytest.mark.parametrize("option", ["unmasking_stages", "validation_stages"])
def test_a_stage_has_to_fit_the_text(run: core.Runtime, training_type: str, spans: int, option: str) -> None:
    options: dict[str, Any] = {option: [{"type": "span", "spans_count": spans, "val_loss_stale_count": 1}]}
    if training_type == "sequence_scoring":
        options |= SCORING

    with pytest.raises(ConfigError, match=rf"^{option}\[0\] .* spans_count is {spans}, wanted {spans - 1} or fewer"):
        task(run, **{"training_type": training_type, **options})


WAVY: dict[str, Any] = {"unmasking_stages": [{"type": "wavy"}]}


@pytest.mark.parametrize("options", [{"training_type": "token_classification"}, {"dataset": "queued"}])
def test_a_mistake_in_stages_is_told_where_nothing_comes_of_them(run: core.Runtime, options: dict[str, Any]) -> None:
    fill_queue("queued", "unmasking")

    with pytest.raises(ConfigError, match=r"^unmasking_stages\[0\], .*: type is 'wavy'"):
        task(run, **{"training_type": "unmasking", **options}, **WAVY)


def test_a_classifier_says_that_stages_are_not_for_it(run: core.Runtime, caplog: pytest.LogCaptureFixture) -> None:
    task(run, training_type="token_classification", validation_stages=STAGES)

    assert [message for message in caplog.messages if "without effect" in message] == [
        "unmasking_stages, validation_stages: not for training_type=token_classification, without effect"
    ]
