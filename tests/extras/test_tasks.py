"""What each training type is wired to: data source, vocabulary, model arguments, objective, and what goes along."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import core
from config.options import Options
from core import CheckpointError, ConfigError, DataError
from data.corrupted_text import CorruptedText
from data.masked_text import MaskedText
from data.meta import read_meta, write_meta
from data.stages import UniformStage
from data.streaming.consumer import DatasetConsumer
from data.token_bins import TokenBins
from extras.iteration_clock import IterationClock
from extras.objectives import SequenceScoring, TokenClassification, Unmasking
from extras.objectives.lines import ObjectiveLines
from extras.queue_release import QueueRelease
from extras.stages import StageProgress
from extras.tasks import Task, checkpoint_file
from extras.validation_timer import ValidationTimer
from model import GPT, GPTConfig
from tests.data.streaming.conftest import Noise, content, producer

TEXT = 17  # of data/tiny
STAGES = [
    {"type": "random", "max_masked_ratio": 0.5, "val_loss_stale_count": 2},
    {"type": "span", "spans_count": 2, "val_loss_stale_count": 2},
]
SCORING = {"training_type": "sequence_scoring", "unmasking_model_checkpoint": "filler.pt"}


@pytest.fixture
def run(run_dir: Path) -> Iterator[core.Runtime]:
    """A process in a folder that has data/tiny."""
    with core.Runtime(device="cpu") as run:
        yield run


@pytest.fixture
def initializer(run: core.Runtime) -> core.ModelInitializer:
    return core.ModelInitializer(GPT, GPTConfig, run.device)


def task(run: core.Runtime, **options: Any) -> Task:
    shape = dict(dataset="tiny", n_layer=1, n_head=1, n_embd=8, block_size=16, batch_size=4, eval_iters=2, max_iters=9)
    return Task(Options(**{**shape, "gradient_accumulation_steps": 2, **options}), run)


def keep_model(path: str, **config: Any) -> None:
    """Save a checkpoint of a new model that knows the tiny data set's vocabulary, but for what `config` says."""
    shape = dict(n_layer=1, n_head=1, n_embd=8, block_size=16, vocab_size=TEXT + 15, bias=False, dropout=0.0)
    args = {**shape, "attention_type": "bidirectional", **config}
    torch.save({"model": GPT(GPTConfig(**args)).state_dict(), "model_args": args, "iter_num": 3, "config": {}}, path)


# by training type


def watching(made: Task) -> list[core.Callback]:
    """Return a task's callbacks, without the clock that all but language models have."""
    found = made.callbacks()
    assert [type(one) for one in found].count(ValidationTimer) == (not made.is_plain)
    return [one for one in found if not isinstance(one, ValidationTimer)]


def test_the_next_token_is_learnt_in_nanogpts_way(run: core.Runtime, initializer: core.ModelInitializer) -> None:
    plain = task(run)

    assert isinstance(plain.data, TokenBins) and plain.data is plain.bins
    assert plain.is_plain and plain.vocab_size == plain.text_vocab_size == TEXT
    assert set(plain.model_args()) == {"n_layer", "n_head", "n_embd", "block_size", "bias", "dropout", "vocab_size"}
    objective = plain.objective(initializer)
    assert type(objective) is core.LanguageModeling and objective.modifiers is None
    assert watching(plain) == [] and plain.loggers() == []


def test_unmasking(run: core.Runtime, initializer: core.ModelInitializer) -> None:
    filling = task(run, training_type="unmasking", loss_mean="sequences", mask_probability=0.3)

    data = filling.data
    assert isinstance(data, MaskedText)
    assert (data.batch_size, data.eval_iters, data.seed, data.rank, data.newline_id) == (4, 2, 1337, 0, 0)
    assert data.corrupts and data.untouched_share == 0.0
    assert data.training == data.validation == [UniformStage(0.3)] and data.reached() == 1
    assert data.windows["train"].length == data.windows["val"].length == 16
    args = filling.model_args()
    assert args["vocab_size"] == filling.vocab_size == TEXT + 15 and filling.text_vocab_size == TEXT
    assert args["attention_type"] == "bidirectional" and "mode" not in args
    objective = filling.objective(initializer)
    assert isinstance(objective, Unmasking) and (objective.mean, objective.modifiers) == ("sequences", None)
    assert watching(filling) == []
    assert [type(logger) for logger in filling.loggers()] == [ObjectiveLines]


def test_token_classification(run: core.Runtime, initializer: core.ModelInitializer) -> None:
    labelling = task(
        run, training_type="token_classification", num_token_classes=3, class_weights="none", p1_p2_ratio=0.5,
        guaranteed_unmasked_min=0.2, guaranteed_unmasked_max=0.9, random_mask_warmup=50,
    )  # fmt: skip

    data = labelling.data
    assert isinstance(data, CorruptedText)
    assert (data.vocab_size, data.unmasked_min, data.unmasked_max, data.warmup_iters) == (TEXT, 0.2, 0.9, 50)
    assert (data.p1_p2_ratio, data.eval_at, data.eval_iters) == (0.5, 4, 2)
    args = labelling.model_args()
    assert (args["mode"], args["num_token_classes"], args["attention_type"]) == ("token_classifier", 3, "bidirectional")
    objective = labelling.objective(initializer)
    assert isinstance(objective, TokenClassification)
    assert (objective.num_token_classes, objective.balanced) == (3, False)
    balanced = task(run, training_type="token_classification").objective(initializer)
    assert isinstance(balanced, TokenClassification) and balanced.balanced


def test_sequence_scoring(run: core.Runtime, initializer: core.ModelInitializer) -> None:
    keep_model("filler.pt")
    scoring = task(
        run, **SCORING, fill="sample", fill_temperature=0.5, fill_top_k=7, score_transform=True, unmasking_stages=STAGES
    )

    data = scoring.data
    assert isinstance(data, MaskedText)
    assert not data.corrupts and data.untouched_share == 0.1
    assert data.windows["train"].length == data.windows["val"].length == 15  # the CLS token goes before
    assert data.reached() == 2  # a scorer knows all stages from the beginning
    args = scoring.model_args()
    assert (args["mode"], args["cls_token_id"], args["vocab_size"]) == ("sequence_scorer", TEXT + 5, TEXT + 15)
    objective = scoring.objective(initializer)
    assert isinstance(objective, SequenceScoring) and objective.filler is not None
    assert (objective.cls_token_id, objective.transform) == (TEXT + 5, True)
    filler = objective.filler
    assert (filler.vocab_size, filler.sample, filler.temperature, filler.top_k) == (TEXT, True, 0.5, 7)
    assert not any(parameter.requires_grad for parameter in filler.model.parameters())
    assert watching(scoring) == []


def test_a_scorer_needs_a_model_that_fills_the_gaps(run: core.Runtime, initializer: core.ModelInitializer) -> None:
    scoring = task(run, training_type="sequence_scoring")

    with pytest.raises(ConfigError, match="set unmasking_model_checkpoint to the folder of an unmasking run"):
        scoring.objective(initializer)


def test_a_scorer_reads_from_the_token_that_it_was_trained_with(run: core.Runtime) -> None:
    scoring = task(run, **SCORING)

    scoring.check({"vocab_size": TEXT + 15, "cls_token_id": TEXT + 5}, None)
    with pytest.raises(ConfigError, match=r"reads from token 23, here CLS is 22: set cls_token_id=23$"):
        scoring.check({"vocab_size": TEXT + 15, "cls_token_id": TEXT + 6}, None)


@pytest.mark.parametrize("training_type", ["unmasking", "token_classification"])
def test_each_rank_draws_texts_of_its_own_from_the_runs_seed(run: core.Runtime, training_type: str) -> None:
    run.rank = 3
    data = task(run, training_type=training_type, seed=7).data

    assert (data.seed, data.rank) == (7, 3)


# a queue of batches that are made already

QUEUED = {"unmasking": "MLM", "sequence_scoring": "SEQUENCE_SCORING", "language_model": "LM"}


def fill(name: str, training_type: str) -> Path:
    """Fill the queue of data/<name> with two files of three batches, and return its folder."""
    folder = Path("data", name)
    noise = Noise(QUEUED[training_type], batch_size=4, block_size=16)
    noise.meta |= {"mask_token_id": 6, "pad_token_id": 7, "cls_token_id": 8}
    if (folder / "meta.pkl").exists():  # of the same text
        noise.meta |= {name: read_meta(folder / "meta.pkl")[name] for name in ("vocab_size", "stoi", "itos")}
    producer(folder, noise).run(once=True)
    return folder


def test_batches_come_from_a_queue_where_there_is_one(run: core.Runtime) -> None:
    folder = fill("queued", "unmasking")
    run.rank, run.world_size = 1, 2
    filling = task(
        run, dataset="queued", training_type="unmasking", data_wait_sleep_seconds=0.5, data_wait_timeout_seconds=7
    )

    data = filling.data
    assert isinstance(data, DatasetConsumer) and data is filling.bins and data.folder == folder
    assert (data.batch_size, data.block_size, data.device) == (4, 16, run.device)
    assert (data.rank, data.world_size) == (1, 2)
    assert (data.wait_sleep_seconds, data.wait_timeout_seconds) == (0.5, 7)
    batch: Any = data.get_batch("train")
    assert batch["input"].tolist() == content(folder)[3]  # the first of the second file: the other rank has the first


def test_the_queue_says_what_the_vocabulary_is(run: core.Runtime) -> None:
    fill("queued", "unmasking")
    filling = task(run, dataset="queued", training_type="unmasking")

    assert filling.vocabulary == (6, 6, 8, 7, 9)  # text, mask, cls, pad, size
    assert filling.model_args()["vocab_size"] == 9
    filling.check({"vocab_size": 9}, None)
    with pytest.raises(core.CoreGPTError, match=r"the model knows (only )?8\b"):
        filling.check({"vocab_size": 8}, None)


def test_what_is_used_up_of_a_queue_is_released(run: core.Runtime) -> None:
    fill("queued", "unmasking")
    filling = task(run, dataset="queued", training_type="unmasking")

    (release,) = watching(filling)
    assert isinstance(release, QueueRelease) and release.consumer is filling.data


def test_a_scorer_from_a_queue_needs_no_filler(run: core.Runtime, initializer: core.ModelInitializer) -> None:
    fill("queued", "sequence_scoring")
    scoring = task(run, dataset="queued", training_type="sequence_scoring")

    objective = scoring.objective(initializer)

    assert isinstance(objective, SequenceScoring)
    assert (objective.filler, objective.cls_token_id, scoring.model_args()["cls_token_id"]) == (None, 8, 8)


@pytest.mark.parametrize("training_type", ["language_model", "unmasking", "sequence_scoring", "token_classification"])
@pytest.mark.parametrize("made_for", QUEUED)
def test_a_queue_serves_what_it_is_made_for_alone(run: core.Runtime, made_for: str, training_type: str) -> None:
    fill("queued", made_for)

    if made_for == training_type:
        assert task(run, dataset="queued", training_type=training_type).from_queue
    else:
        with pytest.raises(ConfigError, match=f"is made for training_type={made_for}, not {training_type}: set"):
            task(run, dataset="queued", training_type=training_type)


def test_with_both_a_text_and_a_queue_the_choice_is_the_users(run: core.Runtime) -> None:
    fill("tiny", "language_model")

    with pytest.raises(ConfigError, match="set data_source=bins or data_source=queue"):
        task(run)
    assert isinstance(task(run, data_source="queue").data, DatasetConsumer)
    text = task(run, data_source="bins")
    assert isinstance(text.data, TokenBins) and not text.from_queue
    assert watching(text) == []


@pytest.mark.parametrize(("source", "there", "missing"), [("queue", "tiny", "no queue at"), ("bins", "queued", "bin")])
def test_a_data_source_that_is_not_there(run: core.Runtime, source: str, there: str, missing: str) -> None:
    fill("queued", "language_model")

    with pytest.raises(DataError, match=missing):
        task(run, dataset=there, data_source=source)


# the vocabulary


def test_special_ids_may_be_chosen(run: core.Runtime) -> None:
    found = task(run, training_type="unmasking", mask_token_id=20, cls_token_id=40).vocabulary

    assert (found.text, found.mask, found.cls, found.size) == (TEXT, 20, 40, 41)


def test_a_data_set_without_meta_is_gpt2s(run: core.Runtime, tiny_bins: Path) -> None:
    (tiny_bins / "meta.pkl").unlink()

    plain = task(run)

    labelling = task(run, training_type="token_classification")
    assert (labelling.vocabulary.text, labelling.vocab_size) == (50257, 50272)
    assert task(run, training_type="unmasking").data.newline_id == 198  # without tiktoken, which may have to go online
    assert plain.vocab_size is None  # as in nanoGPT, where the model rounds it up
    assert (plain.vocabulary.text, plain.vocabulary.size) == (50257, 50272)


def test_a_text_must_not_use_the_ids_beyond_it(run: core.Runtime, tiny_bins: Path) -> None:
    filling = task(run, training_type="unmasking")
    filling.check({"vocab_size": TEXT + 15}, None)
    tokens = np.fromfile(tiny_bins / "train.bin", np.uint16)
    tokens[5] = TEXT  # the mask token: the model knows it, but not as text
    tokens.tofile(tiny_bins / "train.bin")

    with pytest.raises(core.DataError, match=f"holds token id {TEXT}, but the model knows ids below {TEXT}"):
        filling.check({"vocab_size": TEXT + 15}, None)


def test_a_checkpoint_that_learns_something_else_is_not_resumed(run: core.Runtime, tiny_bins: Path) -> None:
    args = {"vocab_size": TEXT + 15}
    saved = {"config": {"training_type": "unmasking"}}

    task(run, training_type="unmasking").check(args, saved)
    task(run).check({"vocab_size": TEXT}, {"config": {"dataset": "tiny"}})  # nanoGPT's say nothing
    with pytest.raises(
        core.ConfigError, match=r"training_type=unmasking, not token_classification: resume it with that"
    ):
        task(run, training_type="token_classification").check(args, saved)


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


# stages


def test_stages_are_reached_one_after_the_other(run: core.Runtime) -> None:
    filling = task(run, training_type="unmasking", unmasking_stages=STAGES)

    (progress,) = watching(filling)
    assert isinstance(progress, StageProgress) and filling.data.reached() == 1
    progress.current_stage = 1
    assert filling.data.reached() == 2


@pytest.mark.parametrize("options", [{"use_all_stages_for_training": True}, {"unmasking_stages": STAGES[:1]}])
def test_where_all_stages_are_used_there_is_no_progress(run: core.Runtime, options: dict[str, Any]) -> None:
    filling = task(run, **{"training_type": "unmasking", "unmasking_stages": STAGES, **options})

    assert watching(filling) == []
    assert filling.data.reached() == len(filling.options.unmasking_stages)


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

    with pytest.raises(ConfigError, match=f"spans_count is {spans}, wanted {spans - 1} or fewer"):
        task(run, **{"training_type": training_type, **options})


# modifiers


def test_modifiers_know_the_special_ids_and_the_time(run: core.Runtime, initializer: core.ModelInitializer) -> None:
    filling = task(run, training_type="unmasking", uncertainty_factor=0.1)
    objective = filling.objective(initializer)

    assert isinstance(objective, Unmasking) and objective.modifiers is filling.modifiers is not None
    assert list(filling.modifiers.modifiers[0].special_tokens) == list(range(TEXT, TEXT + 15))  # type: ignore[attr-defined]
    assert [type(callback) for callback in watching(filling)] == [IterationClock]


def test_modifiers_of_other_training_types_are_left_out(run: core.Runtime, initializer: core.ModelInitializer) -> None:
    filling = task(run, training_type="unmasking", loss_modifiers_enabled=True, sequence_variance_enabled=True)

    objective = filling.objective(initializer)

    assert isinstance(objective, Unmasking) and objective.modifiers is None and watching(filling) == []


def test_a_judge_is_loaded_frozen(run: core.Runtime, initializer: core.ModelInitializer) -> None:
    keep_model("judge.pt", mode="sequence_scorer", cls_token_id=TEXT + 5, block_size=33)
    filling = task(run, training_type="unmasking", enable_judge_model=True, judge_model_checkpoint="judge.pt")
    filling.objective(initializer)

    assert filling.modifiers is not None
    modifier: Any = filling.modifiers.modifiers[0]
    assert (modifier.cls_token_id, modifier.block_size) == (TEXT + 5, 33)
    assert modifier.judge(torch.zeros(3, 9, dtype=torch.int64)).shape == (3,)


def test_each_ranks_judge_draws_on_its_own(run: core.Runtime, initializer: core.ModelInitializer) -> None:
    keep_model("judge.pt", mode="sequence_scorer", cls_token_id=TEXT + 5)
    run.rank = 3
    filling = task(
        run, training_type="unmasking", loss_modifiers_enabled=True, judge_weight_modifier_enabled=True,
        judge_weight_checkpoint="judge.pt", seed=7,
    )  # fmt: skip
    filling.objective(initializer)

    assert filling.modifiers is not None
    modifier: Any = filling.modifiers.modifiers[0]
    assert modifier.generator.initial_seed() == 7 + 3


JUDGING = {"training_type": "unmasking", "enable_judge_model": True, "judge_model_checkpoint": "other.pt"}
FILLING = {**SCORING, "unmasking_model_checkpoint": "other.pt"}
SCORER = {"mode": "sequence_scorer", "cls_token_id": TEXT + 5}


@pytest.mark.parametrize(
    ("options", "config", "message"),
    [
        (FILLING, SCORER, "^other.pt is a sequence_scorer, wanted a language_model$"),
        (FILLING, {"mode": "token_classifier"}, "^other.pt is a token_classifier, wanted a language_model$"),
        (FILLING, {"vocab_size": 40}, "^other.pt has vocab_size=40 and block_size=16, wanted 32 and at least 15"),
        (FILLING, {"block_size": 14}, "^other.pt has vocab_size=32 and block_size=14, wanted 32 and at least 15"),
        (FILLING, {"attention_type": "causal"}, "^other.pt is no unmasking model: wanted one trained with"),
        (JUDGING, {}, "^other.pt is a language_model, wanted a sequence_scorer$"),
        (JUDGING, {**SCORER, "vocab_size": 40}, "^other.pt has vocab_size=40 and block_size=16, wanted 32"),
    ],
)
def test_another_runs_model_that_cannot_serve(
    run: core.Runtime,
    initializer: core.ModelInitializer,
    options: dict[str, Any],
    config: dict[str, Any],
    message: str,
) -> None:
    keep_model("other.pt", **config)

    with pytest.raises(CheckpointError, match=message) as error:
        task(run, **options).objective(initializer)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", [FILLING, JUDGING], ids=["filler", "judge"])
def test_another_runs_model_that_is_not_there(
    run: core.Runtime, initializer: core.ModelInitializer, options: dict[str, Any]
) -> None:
    with pytest.raises(CheckpointError, match=r"other\.pt"):
        task(run, **options).objective(initializer)


def test_a_checkpoint_is_a_file_or_the_newest_of_a_folder(tmp_path: Path) -> None:
    manager, notes = core.CheckpointManager(tmp_path / "out"), {"iter_num": 1, "val_loss": 2.0, "healthy": True}
    (tmp_path / "out").mkdir()
    saved = manager.save(lambda path: torch.save({"model": {}, "model_args": {}}, path), notes)

    (tmp_path / "ckpt.pt").touch()
    assert checkpoint_file(str(tmp_path / "ckpt.pt")) == tmp_path / "ckpt.pt"
    with pytest.raises(CheckpointError, match="^no checkpoint at nowhere: give the folder of a run, or a file in it"):
        checkpoint_file("nowhere")
    assert saved is not None and checkpoint_file(str(tmp_path / "out")).read_bytes() == saved.read_bytes()


def test_only_the_master_prints(run: core.Runtime) -> None:
    run.is_master = False

    assert task(run, training_type="unmasking").loggers() == []
