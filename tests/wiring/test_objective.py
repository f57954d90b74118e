"""What each training type is wired to: data source, vocabulary, model arguments, objective, and what goes along."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import core
import train
from core import ConfigError, RunFolder
from core.checkpoint.search import CheckpointFile
from data.corrupted_text import CorruptedText
from data.masked_text import MaskedText
from data.meta import read_meta, write_meta
from data.stages import UniformStage
from data.token_bins import TokenBins
from extras.iteration_clock import IterationClock
from extras.objective_lines import ObjectiveLines
from extras.objectives import SequenceScoring, TokenClassification, Unmasking
from extras.queue_release import QueueRelease
from extras.stage_progress import StageProgress
from extras.validation_timer import ValidationTimer
from tests.wiring.tiny_task import SCORING, STAGES, TEXT, Task, fill_queue, keep_model, task
from wiring.data import find_vocabulary
from wiring.model import find_transfer_source
from wiring.start import RunStart

FOUND = CheckpointFile(Path("out/ckpt.pt"), None)

# by training type


def watching(made: Task) -> list[core.Callback]:
    """Return a task's callbacks, without the clock that all but language models have."""
    found = made.callbacks()
    assert [type(one) for one in found].count(ValidationTimer) == (made.vocabulary is not None)
    return [one for one in found if not isinstance(one, ValidationTimer)]


def test_the_next_token_is_learnt_in_nanogpts_way(run: core.Runtime, initializer: core.ModelInitializer) -> None:
    plain = task(run)

    assert isinstance(plain.data, TokenBins) and plain.data is plain.source
    assert plain.vocabulary is None and plain.model_args()["vocab_size"] == TEXT
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
    assert data.training == data.validation == [UniformStage(0.3)] and data.reached is None
    assert data.windows["train"].length == data.windows["val"].length == 16
    args = filling.model_args()
    assert args["vocab_size"] == TEXT + 15 and filling.source.vocab_size == TEXT
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
    assert data.reached is None  # a scorer knows all stages from the beginning
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


def test_the_queue_says_what_the_vocabulary_is(run: core.Runtime) -> None:
    fill_queue("queued", "unmasking")
    filling = task(run, dataset="queued", training_type="unmasking")

    assert filling.vocabulary == (6, 6, 8, 7, 9)  # text, mask, cls, pad, size
    assert filling.model_args()["vocab_size"] == 9
    filling.check({"vocab_size": 9}, None)
    with pytest.raises(core.CoreGPTError, match=r"the model (has|only) 8\b"):
        filling.check({"vocab_size": 8}, None)


def test_what_is_used_up_of_a_queue_is_released(run: core.Runtime) -> None:
    fill_queue("queued", "unmasking")
    filling = task(run, dataset="queued", training_type="unmasking")

    (release,) = watching(filling)
    assert isinstance(release, QueueRelease) and release.consumer is filling.data


def test_a_scorer_from_a_queue_needs_no_filler(run: core.Runtime, initializer: core.ModelInitializer) -> None:
    fill_queue("queued", "sequence_scoring")
    scoring = task(run, dataset="queued", training_type="sequence_scoring")

    objective = scoring.objective(initializer)

    assert isinstance(objective, SequenceScoring)
    assert (objective.filler, objective.cls_token_id, scoring.model_args()["cls_token_id"]) == (None, 8, 8)


# the vocabulary


def test_special_ids_may_be_chosen(run: core.Runtime) -> None:
    found = task(run, training_type="unmasking", mask_token_id=20, cls_token_id=40).vocabulary

    assert (found.text, found.mask, found.cls, found.size) == (TEXT, 20, 40, 41)


def test_a_data_set_without_meta_is_gpt2s(run: core.Runtime, tiny_bins: Path) -> None:
    (tiny_bins / "meta.pkl").unlink()

    plain = task(run)

    labelling = task(run, training_type="token_classification")
    assert (labelling.vocabulary.text, labelling.model_args()["vocab_size"]) == (50257, 50272)
    assert task(run, training_type="unmasking").data.newline_id == 198  # without tiktoken, which may have to go online
    assert plain.model_args()["vocab_size"] is None  # as in nanoGPT, where the model rounds it up
    vocabulary = find_vocabulary(plain.options, plain.source)
    assert (vocabulary.text, vocabulary.size) == (50257, 50272)


def test_a_text_must_not_use_the_ids_beyond_it(run: core.Runtime, tiny_bins: Path) -> None:
    filling = task(run, training_type="unmasking")
    filling.check({"vocab_size": TEXT + 15}, None)
    tokens = np.fromfile(tiny_bins / "train.bin", np.uint16)
    tokens[5] = TEXT  # the mask token: the model knows it, but not as text
    tokens.tofile(tiny_bins / "train.bin")

    with pytest.raises(core.DataError, match=f"holds token id {TEXT}, but the model has ids below {TEXT}"):
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


def test_a_classifier_keeps_its_classes(run: core.Runtime) -> None:
    args, saved = (
        {"vocab_size": TEXT + 15, "num_token_classes": 3},
        {"config": {"training_type": "token_classification"}},
    )

    task(run, training_type="token_classification", num_token_classes=3).check(args, saved)
    with pytest.raises(core.ConfigError, match="has 3 classes, not 2: set num_token_classes=3"):
        task(run, training_type="token_classification").check(args, saved)


def test_checkpoints_note_the_ids_beyond_the_text(run: core.Runtime) -> None:
    assert "meta" not in task(run).saved_config()
    assert task(run, training_type="unmasking", mask_token_id=20).saved_config()["meta"] == {
        "vocab_size": TEXT + 15, "text_vocab_size": TEXT, "mask_token_id": 20, "pad_token_id": TEXT + 6,
        "cls_token_id": TEXT + 5,
    }  # fmt: skip


def test_ids_that_are_not_the_queues_are_refused(run: core.Runtime) -> None:
    fill_queue("queued", "sequence_scoring")
    scoring = {"dataset": "queued", "training_type": "sequence_scoring"}

    assert task(run, **scoring, mask_token_id=6, cls_token_id=8).vocabulary.cls == 8
    for name, wrong, known in (("cls_token_id", 3, 8), ("mask_token_id", 7, 6)):
        with pytest.raises(ConfigError, match=rf"^{name}={wrong}, but in data/queued/meta\.pkl it is {known}: remove"):
            _ = task(run, **scoring, **{name: wrong}).vocabulary
    meta = read_meta("data/queued/meta.pkl")
    del meta["cls_token_id"]
    write_meta("data/queued/meta.pkl", meta)
    with pytest.raises(ConfigError, match=r"meta\.pkl has no cls_token_id, which a scorer reads its score from"):
        _ = task(run, **scoring).vocabulary


def test_a_smaller_vocabulary_will_do_for_a_queue_that_never_uses_all(run: core.Runtime) -> None:
    folder = fill_queue("queued", "unmasking")
    filling = {"dataset": "queued", "training_type": "unmasking"}
    size = task(run, **filling).vocabulary.size
    with pytest.raises(core.DataError, match=f"has {size} token ids, but the model only {size - 1}"):
        task(run, **filling).check({"vocab_size": size - 1}, None)
    write_meta(folder / "meta.pkl", {**read_meta(folder / "meta.pkl"), "largest_token_id": size - 2})

    task(run, **filling).check({"vocab_size": size - 1}, None)


def test_the_files_of_other_runs_are_remembered(run: core.Runtime, initializer: core.ModelInitializer) -> None:
    keep_model("filler.pt")
    scoring = task(run, **SCORING)
    scoring.objective(initializer)

    assert scoring.learning is not None and scoring.learning.files == [Path("filler.pt")]


def test_waiting_is_for_a_queue_alone(run: core.Runtime) -> None:
    fill_queue("queued", "unmasking")
    waiting = task(run, dataset="queued", training_type="unmasking", data_wait_timeout_seconds=0.01)
    waiting.found.wait()
    shutil.rmtree("data/queued/queue/val")
    with pytest.raises(core.DataError, match="waited"):
        waiting.found.wait()
    task(run).found.wait()


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
    assert filling.data.reached is None and len(filling.data.training) == len(filling.options.unmasking_stages)


# modifiers


def test_modifiers_know_the_special_ids_and_the_time(run: core.Runtime, initializer: core.ModelInitializer) -> None:
    filling = task(run, training_type="unmasking", uncertainty_factor=0.1)
    objective = filling.objective(initializer)

    assert isinstance(objective, Unmasking) and objective.modifiers is filling.modifiers is not None
    assert list(filling.modifiers.modifiers[0].special_tokens) == list(range(TEXT, TEXT + 15))  # type: ignore[attr-defined]
    assert [type(callback) for callback in watching(filling)] == [IterationClock]


def test_modifiers_are_named(
    run: core.Runtime, initializer: core.ModelInitializer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="coregpt"):
        task(run, training_type="unmasking", uncertainty_factor=0.1, z_loss_weight=0.1).objective(initializer)
    assert caplog.messages[-1] == "loss modifiers: LabelSmoothingModifier, ZLossModifier"


def test_modifiers_of_other_training_types_are_left_out(
    run: core.Runtime, initializer: core.ModelInitializer, caplog: pytest.LogCaptureFixture
) -> None:
    filling = task(run, training_type="unmasking", loss_modifiers_enabled=True, sequence_variance_enabled=True)

    objective = filling.objective(initializer)

    assert isinstance(objective, Unmasking) and objective.modifiers is None and watching(filling) == []
    assert caplog.messages[-1:] == ["SequenceScorerVarianceModifier: not for training_type=unmasking, without effect"]


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


def test_only_the_master_prints(run: core.Runtime) -> None:
    run.is_master = False

    assert task(run, training_type="unmasking").loggers() == []


@pytest.mark.parametrize("option", ["enable_judge_model", "judge_weight_modifier_enabled"])
def test_a_judge_on_the_scale_of_its_line_and_as_long_as_the_texts(
    run: core.Runtime, initializer: core.ModelInitializer, option: str
) -> None:
    judging = {
        "training_type": "unmasking", "loss_modifiers_enabled": True, option: True,
        "judge_model_checkpoint": "judge.pt", "judge_weight_checkpoint": "judge.pt",
    }  # fmt: skip
    keep_model("judge.pt", mode="sequence_scorer", cls_token_id=TEXT + 5)
    made = task(run, **judging)
    made.objective(initializer)
    assert made.modifiers is not None
    modifier: Any = made.modifiers.modifiers[0]
    assert modifier.judge.transformed == (option == "judge_weight_modifier_enabled")
    keep_model("judge.pt", mode="sequence_scorer", cls_token_id=TEXT + 5, block_size=15)
    with pytest.raises(core.CheckpointError, match="block_size=15, wanted 32 and at least 16"):
        task(run, **judging).objective(initializer)


def test_the_mask_stays_where_it_was(run: core.Runtime) -> None:
    args = {"vocab_size": TEXT + 15}
    for notes in ({"mask_token_id": 20}, {"mask_token_id": None, "meta": {"mask_token_id": 20}}):
        saved = {"config": {"training_type": "unmasking", **notes}}
        task(run, training_type="unmasking", mask_token_id=20).check(args, saved)
        with pytest.raises(ConfigError, match="had mask_token_id=20, here it is 17: set mask_token_id=20"):
            task(run, training_type="unmasking").check(args, saved)
    saved = {"config": {"training_type": "unmasking", "mask_token_id": None, "meta": {"mask_token_id": TEXT}}}
    task(run, training_type="unmasking", mask_token_id=TEXT).check(args, saved)  # the same, by its number
    task(run, mask_token_id=20).check({"vocab_size": TEXT}, {"config": {"mask_token_id": None}})  # no mask at all


def test_a_model_without_room_for_the_mask(run: core.Runtime) -> None:
    with pytest.raises(ConfigError, match=rf"has {TEXT} token ids, wanted {TEXT + 15}: .* init_from_checkpoint"):
        task(run, training_type="unmasking").check({"vocab_size": TEXT}, None)


def test_a_checkpoint_of_nanogpts_fills_no_gaps(run: core.Runtime) -> None:
    with pytest.raises(ConfigError, match="training_type=language_model, not unmasking: resume it with that"):
        task(run, training_type="unmasking").check({"vocab_size": TEXT + 15}, {"config": {"dataset": "tiny"}})


def test_a_cls_id_is_for_scorers_alone(run: core.Runtime) -> None:
    fill_queue("queued", "unmasking")

    assert task(run, dataset="queued", training_type="unmasking", cls_token_id=3).vocabulary.cls == 8


def test_other_ranks_take_the_file_that_the_master_found(run: core.Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    made = task(run, init_from_checkpoint="nowhere.pt")
    monkeypatch.setattr(run, "on_master", lambda look: Path("masters.pt"))
    fresh, resumed = RunStart("scratch", None, RunFolder("out")), RunStart("resume", FOUND, RunFolder("out"))

    assert find_transfer_source(made.options, run, fresh) == Path("masters.pt")
    assert find_transfer_source(made.options, run, resumed) is None  # it has weights of its own
    assert find_transfer_source(task(run).options, run, fresh) is None


def test_evaluations_of_a_language_models_queue_consume_nothing(run: core.Runtime) -> None:
    fill_queue("queued", "language_model")
    made = task(run, dataset="queued")

    made.found.eval_draw("train")
    assert made.data.state_dict()["file"] is None


def test_a_run_notes_its_ids_and_does_not_clear_the_model_it_needs(run_dir: Path, tiny_argv: list[str]) -> None:
    filling = [*tiny_argv, "--training_type=unmasking", "--out_dir=mine", "--max_iters=1"]
    train.main(filling)
    asked = core.find_checkpoint("mine")
    assert core.load_checkpoint(asked)["config"]["meta"]["mask_token_id"] == TEXT
    before = asked.read_bytes()

    with pytest.raises(ConfigError, match="which a new run clears"):
        train.main(
            [*filling, "--training_type=sequence_scoring", "--unmasking_model_checkpoint=mine", "--block_size=8"]
        )
    assert asked.read_bytes() == before


def test_a_fresh_start_waits_for_data_before_it_touches_anything(run_dir: Path, tiny_argv: list[str]) -> None:
    train.main([*tiny_argv, "--out_dir=mine", "--max_iters=1"])
    fill_queue("queued", "unmasking")
    shutil.rmtree("data/queued/queue/val")
    before = sorted(Path("mine").iterdir())
    queued = [*tiny_argv, "--dataset=queued", "--training_type=unmasking", "--batch_size=4", "--block_size=16"]

    with pytest.raises(core.DataError, match="waited"):
        train.main([*queued, "--out_dir=mine", "--data_wait_timeout_seconds=0.01"])
    assert sorted(Path("mine").iterdir()) == before
