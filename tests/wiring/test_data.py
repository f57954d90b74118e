"""The source of batches, a text or a queue, and the options for the boundaries and masking of texts."""

import shutil
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
from wiring.data import data_folder, open_data

# text or queue


def test_batches_come_from_a_queue_if_there_is_one(run: core.Runtime) -> None:
    folder = fill_queue("queued", "unmasking")
    run.rank, run.world_size = 1, 2
    unmasking = task(
        run, dataset="queued", training_type="unmasking", data_wait_sleep_seconds=0.5, data_wait_timeout_seconds=7
    )

    data = unmasking.data
    assert isinstance(data, DatasetConsumer) and data is unmasking.source and data.folder == folder
    assert (data.batch_size, data.block_size) == (4, 16)
    assert (data.rank, data.world_size) == (1, 2)
    assert (data.wait_sleep_seconds, data.wait_timeout_seconds) == (0.5, 7)
    batch: Any = data.get_batch("train")
    # the first batch of the second file; the other rank has the first file
    assert batch["input"].tolist() == content(folder)[3]


@pytest.mark.parametrize("training_type", ["language_model", "unmasking", "sequence_scoring", "token_classification"])
@pytest.mark.parametrize("made_for", QUEUED)
def test_a_queue_serves_only_the_training_type_that_it_is_made_for(
    run: core.Runtime, made_for: str, training_type: str
) -> None:
    fill_queue("queued", made_for)

    if made_for == training_type:
        assert task(run, dataset="queued", training_type=training_type).run_data.is_queue
    else:
        with pytest.raises(ConfigError, match=f"is made for training_type={made_for}, not {training_type}: set"):
            task(run, dataset="queued", training_type=training_type)


def test_with_a_text_and_a_queue_data_source_must_be_set(run: core.Runtime) -> None:
    fill_queue("tiny", "language_model")

    with pytest.raises(ConfigError, match="set data_source=bins or data_source=queue"):
        task(run)
    assert isinstance(task(run, data_source="queue").data, DatasetConsumer)
    text = task(run, data_source="bins")
    assert isinstance(text.data, TokenBins) and not text.run_data.is_queue


@pytest.mark.parametrize(
    ("source", "dataset", "missing"),
    [("queue", "tiny", "no queue at"), ("bins", "queued", r"^no data at data/queued/train\.bin")],
)
def test_a_missing_data_source_is_refused(run: core.Runtime, source: str, dataset: str, missing: str) -> None:
    fill_queue("queued", "language_model")

    with pytest.raises(DataError, match=missing):
        task(run, dataset=dataset, data_source=source)


def test_a_queue_for_two_heads_is_refused(run: core.Runtime) -> None:
    folder = fill_queue("queued", "unmasking")
    write_meta(folder / "meta.pkl", {**read_meta(folder / "meta.pkl"), "training_type": "DUAL_MODE"})

    with pytest.raises(ConfigError, match="mixes batches for two heads, which no run learns from: fill another"):
        task(run, dataset="queued", training_type="unmasking")


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        ({}, []),
        ({"data_source": "bins"}, ["data: from data/tiny/train.bin"]),
        ({"training_type": "unmasking"}, ["data: from data/tiny/train.bin"]),
        ({"training_type": "unmasking", "dataset": "queued"}, ["data: from data/queued/queue"]),
    ],
)
def test_the_source_of_batches_is_logged(
    run: core.Runtime, options: dict[str, Any], messages: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    fill_queue("queued", "unmasking")
    caplog.clear()
    with caplog.at_level("INFO", logger="coregpt"):
        task(run, **options)

    assert caplog.messages == messages


def test_a_folder_without_batches_is_refused_with_the_command_to_fill_it(run: core.Runtime) -> None:
    Path("data/new").mkdir()
    Path("data/new/prepare_streaming.py").touch()
    with pytest.raises(
        ConfigError, match=r"^data/new holds no batches yet: run `python data/new/prepare_streaming\.py"
    ):
        task(run, dataset="new")
    with pytest.raises(DataError, match=r"train\.bin"):
        task(run, dataset="new", data_source="bins")


@pytest.mark.parametrize("dataset", ["data/tiny", "./data/tiny", "mine", "./mine", "ABSOLUTE"])
def test_a_data_set_may_be_given_by_its_path(run: core.Runtime, dataset: str) -> None:
    shutil.copytree("data/tiny", "mine")
    dataset = str(Path("mine").absolute()) if dataset == "ABSOLUTE" else dataset

    source = task(run, dataset=dataset).source

    assert source.folder == Path(dataset) and source.vocab_size == 17


def test_the_folder_of_a_data_set_is_under_data_if_it_is_there(run: core.Runtime) -> None:
    Path("tiny").mkdir()
    Path("model").write_text("")

    assert data_folder("tiny") == Path("data/tiny")
    assert [data_folder(name) for name in ("gone", "./gone", "model")] == [
        Path("data/gone"), Path("data/gone"), Path("data/model"),
    ]  # fmt: skip


@pytest.mark.parametrize("training_type", ["unmasking", "token_classification", "sequence_scoring"])
def test_masked_texts_check_the_ids_they_read(run: core.Runtime, training_type: str) -> None:
    options = SCORING if training_type == "sequence_scoring" else {"training_type": training_type}
    data = task(run, **options)
    data.check({**data.model_args(), "num_token_classes": 2}, None)
    data.data.get_batch("train")
    np.full(2000, 17, np.uint16).tofile("data/tiny/train.bin")

    with pytest.raises(DataError, match=r"train\.bin holds token id 17, at position [\d,]+, .* ids below 17"):
        data.data.get_batch("train")


def test_a_signal_interrupts_a_draw_only_in_a_single_process(run: core.Runtime) -> None:
    """With several processes the other ranks would wait for the interrupted one."""
    options, preemption = task(run).options, core.Preemption(time_limit_hours=0.0)
    with pytest.raises(core.Interrupted):
        open_data(options, run, preemption).draw("train")

    run.world_size = 2
    open_data(options, run, preemption).draw("train")


# windows and stages of texts


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
    ids=["characters", "characters without a newline", "bytes", "token ids", "GPT-2 by name"],
)  # fmt: skip
def test_the_newline_is_found_in_every_kind_of_meta(
    run: core.Runtime, tiny_bins: Path, meta: dict[str, Any], newline: int | None
) -> None:
    write_meta(tiny_bins / "meta.pkl", meta)

    assert task(run, training_type="unmasking").data.newline_id == newline


def test_line_options_need_a_newline_in_the_vocabulary(run: core.Runtime, tiny_bins: Path) -> None:
    write_meta(tiny_bins / "meta.pkl", {"vocab_size": TEXT})
    lines = [{"type": "line", "min_ratio": 0.1, "max_ratio": 0.5, "val_loss_stale_count": 1}]

    with pytest.raises(ConfigError, match="the vocabulary has no newline, so there are no lines"):
        task(run, training_type="unmasking", unmasking_stages=lines)
    with pytest.raises(ConfigError, match="need a newline in the vocabulary"):
        task(run, training_type="unmasking", enable_line_aligned_sequences=True)


def test_line_aligned_texts_end_at_a_newline_or_in_padding(run: core.Runtime) -> None:
    unmasking = task(run, training_type="unmasking", enable_line_aligned_sequences=True)

    batch = unmasking.data.get_batch("train")

    original = batch["target"].where(batch["target"] >= 0, batch["input"])
    assert all(row[-1] in (0, unmasking.vocabulary.pad) or 0 not in row for row in original.tolist())
    assert (batch["target"] < TEXT).all() and (original == unmasking.vocabulary.pad).any()


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
def test_the_options_set_the_starts_of_texts(
    run: core.Runtime, tiny_bins: Path, training_type: str, options: dict[str, Any], starts: list[int]
) -> None:
    tokens = (np.arange(400) % 16 + 1).astype(np.uint16)
    tokens[50:52] = 0  # two newlines, the only ones
    for split in ("train", "val"):
        tokens.tofile(tiny_bins / f"{split}.bin")

    data = task(run, training_type=training_type, **options).data

    assert {split: list(windows.starts) for split, windows in data.windows.items()} == {"train": starts, "val": starts}


def test_validation_can_have_its_own_stages(run: core.Runtime) -> None:
    stages = [{"type": "span", "spans_count": 3}]
    data = task(run, training_type="unmasking", unmasking_stages=STAGES, validation_stages=stages).data

    assert [stage.describe() for stage in data.validation] == ["span, 3 spans"]
    assert len(data.training) == 2


@pytest.mark.parametrize(("training_type", "spans"), [("unmasking", 17), ("sequence_scoring", 16)])
@pytest.mark.parametrize("option", ["unmasking_stages", "validation_stages"])
def test_a_stage_must_fit_the_length_of_the_text(
    run: core.Runtime, training_type: str, spans: int, option: str
) -> None:
    options: dict[str, Any] = {option: [{"type": "span", "spans_count": spans, "val_loss_stale_count": 1}]}
    if training_type == "sequence_scoring":
        options |= SCORING

    with pytest.raises(ConfigError, match=rf"^{option}\[0\] .* spans_count is {spans}, wanted {spans - 1} or fewer"):
        task(run, **{"training_type": training_type, **options})


WRONG_STAGE: dict[str, Any] = {"unmasking_stages": [{"type": "wavy"}]}


@pytest.mark.parametrize("options", [{"training_type": "token_classification"}, {"dataset": "queued"}])
def test_an_error_in_unused_stages_is_reported(run: core.Runtime, options: dict[str, Any]) -> None:
    fill_queue("queued", "unmasking")

    with pytest.raises(ConfigError, match=r"^unmasking_stages\[0\], .*: type is 'wavy'"):
        task(run, **{"training_type": "unmasking", **options}, **WRONG_STAGE)


def test_stages_of_a_classifier_are_reported_as_without_effect(
    run: core.Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    task(run, training_type="token_classification", validation_stages=STAGES)

    assert [message for message in caplog.messages if "without effect" in message] == [
        "unmasking_stages, validation_stages: not for training_type=token_classification, without effect"
    ]
