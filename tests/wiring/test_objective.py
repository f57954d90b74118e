"""The parts of each training type: data source, vocabulary, model arguments, objective, modifiers and callbacks."""

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
from extras.epoch_meter import EpochMeter
from extras.iteration_clock import IterationClock
from extras.objective_lines import ObjectiveLines
from extras.objectives import SequenceScoring, TokenClassification, Unmasking
from extras.queue_release import QueueRelease
from extras.stage_progress import StageProgress
from extras.validation_timer import ValidationTimer
from tests.wiring.tiny_task import SCORING, STAGES, TEXT, Task, fill_queue, save_model, task
from wiring.data import find_vocabulary
from wiring.model import find_transfer_source
from wiring.start import RunStart

CHECKPOINT_FILE = CheckpointFile(Path("out/ckpt.pt"), None)

# by training type


def callbacks_without_timer(wired: Task) -> list[core.Callback]:
    """Return a task's callbacks without the ValidationTimer, which all training types but language_model have."""
    callbacks = wired.callbacks()
    assert [type(callback) for callback in callbacks].count(ValidationTimer) == (wired.vocabulary is not None)
    return [callback for callback in callbacks if not isinstance(callback, ValidationTimer)]


def test_a_language_model_is_wired_as_in_nanogpt(run: core.Runtime, initializer: core.ModelInitializer) -> None:
    plain = task(run)

    assert isinstance(plain.data, TokenBins) and plain.data is plain.source
    assert plain.vocabulary is None and plain.model_args()["vocab_size"] == TEXT
    assert set(plain.model_args()) == {"n_layer", "n_head", "n_embd", "block_size", "bias", "dropout", "vocab_size"}
    objective = plain.objective(initializer)
    assert type(objective) is core.LanguageModeling and objective.modifiers is None
    assert callbacks_without_timer(plain) == [] and plain.loggers() == []


def test_an_unmasking_run_gets_its_data_model_and_objective(
    run: core.Runtime, initializer: core.ModelInitializer
) -> None:
    unmasking = task(run, training_type="unmasking", loss_mean="sequences", mask_probability=0.3)

    data = unmasking.data
    assert isinstance(data, MaskedText)
    assert (data.batch_size, data.eval_iters, data.seed, data.rank, data.newline_id) == (4, 2, 1337, 0, 0)
    assert data.corrupts and data.untouched_share == 0.0
    assert data.training == data.validation == [UniformStage(0.3)] and data.reached is None
    assert data.windows["train"].length == data.windows["val"].length == 16
    args = unmasking.model_args()
    assert args["vocab_size"] == TEXT + 15 and unmasking.source.vocab_size == TEXT
    assert args["attention_type"] == "bidirectional" and "mode" not in args
    objective = unmasking.objective(initializer)
    assert isinstance(objective, Unmasking) and (objective.mean, objective.modifiers) == ("sequences", None)
    assert callbacks_without_timer(unmasking) == []
    assert [type(logger) for logger in unmasking.loggers()] == [ObjectiveLines]


def test_a_token_classification_run_gets_its_data_model_and_objective(
    run: core.Runtime, initializer: core.ModelInitializer
) -> None:
    classification = task(
        run, training_type="token_classification", num_token_classes=3, class_weights="none", p1_p2_ratio=0.5,
        guaranteed_unmasked_min=0.2, guaranteed_unmasked_max=0.9, random_mask_warmup=50,
    )  # fmt: skip

    data = classification.data
    assert isinstance(data, CorruptedText)
    assert (data.vocab_size, data.unmasked_min, data.unmasked_max, data.warmup_iters) == (TEXT, 0.2, 0.9, 50)
    assert (data.p1_p2_ratio, data.eval_at, data.eval_iters) == (0.5, 4, 2)
    args = classification.model_args()
    assert (args["mode"], args["num_token_classes"], args["attention_type"]) == ("token_classifier", 3, "bidirectional")
    objective = classification.objective(initializer)
    assert isinstance(objective, TokenClassification)
    assert (objective.num_token_classes, objective.balanced) == (3, False)
    balanced = task(run, training_type="token_classification").objective(initializer)
    assert isinstance(balanced, TokenClassification) and balanced.balanced


def test_a_sequence_scoring_run_gets_its_data_model_and_objective(
    run: core.Runtime, initializer: core.ModelInitializer
) -> None:
    save_model("filler.pt")
    scoring = task(
        run, **SCORING, fill="sample", fill_temperature=0.5, fill_top_k=7, score_transform=True, unmasking_stages=STAGES
    )

    data = scoring.data
    assert isinstance(data, MaskedText)
    assert not data.corrupts and data.untouched_share == 0.1
    assert data.windows["train"].length == data.windows["val"].length == 15  # the CLS token is added in front
    assert data.reached is None  # a scorer uses all stages from the beginning
    args = scoring.model_args()
    assert (args["mode"], args["cls_token_id"], args["vocab_size"]) == ("sequence_scorer", TEXT + 5, TEXT + 15)
    objective = scoring.objective(initializer)
    assert isinstance(objective, SequenceScoring) and objective.filler is not None
    assert (objective.cls_token_id, objective.transform) == (TEXT + 5, True)
    filler = objective.filler
    assert (filler.vocab_size, filler.sample, filler.temperature, filler.top_k) == (TEXT, True, 0.5, 7)
    assert not any(parameter.requires_grad for parameter in filler.model.parameters())
    assert callbacks_without_timer(scoring) == []


def test_a_scorer_needs_an_unmasking_model(run: core.Runtime, initializer: core.ModelInitializer) -> None:
    scoring = task(run, training_type="sequence_scoring")

    with pytest.raises(ConfigError, match="set unmasking_model_checkpoint to the folder of an unmasking run"):
        scoring.objective(initializer)


def test_another_cls_token_than_in_the_checkpoint_is_refused(run: core.Runtime) -> None:
    scoring = task(run, **SCORING)

    scoring.check({"vocab_size": TEXT + 15, "cls_token_id": TEXT + 5}, None)
    with pytest.raises(ConfigError, match=r"reads from token 23, here CLS is 22: set cls_token_id=23$"):
        scoring.check({"vocab_size": TEXT + 15, "cls_token_id": TEXT + 6}, None)


@pytest.mark.parametrize("training_type", ["unmasking", "token_classification"])
def test_data_sources_get_the_seed_and_the_rank(run: core.Runtime, training_type: str) -> None:
    run.rank = 3
    data = task(run, training_type=training_type, seed=7).data

    assert (data.seed, data.rank) == (7, 3)


# queues of ready-made batches


def test_the_vocabulary_of_a_queue_comes_from_its_meta(run: core.Runtime) -> None:
    fill_queue("queued", "unmasking")
    unmasking = task(run, dataset="queued", training_type="unmasking")

    assert unmasking.vocabulary == (6, 6, 8, 7, 9)  # text, mask, cls, pad, size
    assert unmasking.model_args()["vocab_size"] == 9
    unmasking.check({"vocab_size": 9}, None)
    with pytest.raises(core.CoreGPTError, match=r"the model (has|only) 8\b"):
        unmasking.check({"vocab_size": 8}, None)


def test_a_run_on_a_queue_has_the_callback_that_releases_files(run: core.Runtime) -> None:
    fill_queue("queued", "unmasking")
    unmasking = task(run, dataset="queued", training_type="unmasking")

    (release,) = callbacks_without_timer(unmasking)
    assert isinstance(release, QueueRelease) and release.consumer is unmasking.data


def test_a_queue_has_no_size_for_callbacks_that_count_epochs(run: core.Runtime) -> None:
    class EpochCounter:
        def on_epoch_end(self, epoch: int) -> None: ...

    fill_queue("queued", "unmasking")
    meters = [
        [part.train_tokens for part in task(run, **options).callbacks(EpochCounter()) if isinstance(part, EpochMeter)]
        for options in ({"dataset": "queued", "training_type": "unmasking"}, {"training_type": "unmasking"})
    ]

    assert meters == [[None], [2000]]


def test_a_scorer_from_a_queue_needs_no_filler(run: core.Runtime, initializer: core.ModelInitializer) -> None:
    fill_queue("queued", "sequence_scoring")
    scoring = task(run, dataset="queued", training_type="sequence_scoring")

    objective = scoring.objective(initializer)

    assert isinstance(objective, SequenceScoring)
    assert (objective.filler, objective.cls_token_id, scoring.model_args()["cls_token_id"]) == (None, 8, 8)


# the vocabulary


def test_special_ids_can_be_set_by_options(run: core.Runtime) -> None:
    vocabulary = task(run, training_type="unmasking", mask_token_id=20, cls_token_id=40).vocabulary

    assert (vocabulary.text, vocabulary.mask, vocabulary.cls, vocabulary.size) == (TEXT, 20, 40, 41)


def test_a_data_set_without_meta_has_gpt2s_vocabulary(run: core.Runtime, tiny_bins: Path) -> None:
    (tiny_bins / "meta.pkl").unlink()

    plain = task(run)

    classification = task(run, training_type="token_classification")
    assert (classification.vocabulary.text, classification.model_args()["vocab_size"]) == (50257, 50272)
    # known without tiktoken, which may have to download the vocabulary
    assert task(run, training_type="unmasking").data.newline_id == 198
    assert plain.model_args()["vocab_size"] is None  # as in nanoGPT, where the model rounds it up
    vocabulary = find_vocabulary(plain.options, plain.source)
    assert (vocabulary.text, vocabulary.size) == (50257, 50272)


def test_a_text_that_contains_special_ids_is_refused(run: core.Runtime, tiny_bins: Path) -> None:
    unmasking = task(run, training_type="unmasking")
    unmasking.check({"vocab_size": TEXT + 15}, None)
    tokens = np.fromfile(tiny_bins / "train.bin", np.uint16)
    tokens[5] = TEXT  # the mask token is in the model's vocabulary, but not in the text's
    tokens.tofile(tiny_bins / "train.bin")

    with pytest.raises(
        core.DataError, match=f"holds token id {TEXT}, at position 5, but the model has ids below {TEXT}"
    ):
        unmasking.check({"vocab_size": TEXT + 15}, None)


def test_a_checkpoint_of_another_training_type_is_not_resumed(run: core.Runtime, tiny_bins: Path) -> None:
    args = {"vocab_size": TEXT + 15}
    saved = {"config": {"training_type": "unmasking"}}

    task(run, training_type="unmasking").check(args, saved)
    # checkpoints of nanoGPT have no training_type
    task(run).check({"vocab_size": TEXT}, {"config": {"dataset": "tiny"}})
    with pytest.raises(
        core.ConfigError, match=r"training_type=unmasking, not token_classification: resume it with that"
    ):
        task(run, training_type="token_classification").check(args, saved)


def test_another_number_of_classes_than_in_the_checkpoint_is_refused(run: core.Runtime) -> None:
    args, saved = (
        {"vocab_size": TEXT + 15, "num_token_classes": 3},
        {"config": {"training_type": "token_classification"}},
    )

    task(run, training_type="token_classification", num_token_classes=3).check(args, saved)
    with pytest.raises(core.ConfigError, match="has 3 classes, not 2: set num_token_classes=3"):
        task(run, training_type="token_classification").check(args, saved)


def test_checkpoints_contain_the_special_ids(run: core.Runtime) -> None:
    assert "meta" not in task(run).saved_config()
    assert task(run, training_type="unmasking", mask_token_id=20).saved_config()["meta"] == {
        "vocab_size": TEXT + 15, "text_vocab_size": TEXT, "mask_token_id": 20, "pad_token_id": TEXT + 6,
        "cls_token_id": TEXT + 5,
    }  # fmt: skip


def test_special_ids_other_than_the_queues_are_refused(run: core.Runtime) -> None:
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


def test_the_model_must_cover_the_largest_token_id_of_a_queue(run: core.Runtime) -> None:
    folder = fill_queue("queued", "unmasking")
    unmasking = {"dataset": "queued", "training_type": "unmasking"}
    size = task(run, **unmasking).vocabulary.size
    with pytest.raises(core.DataError, match=f"has {size} token ids, but the model only {size - 1}"):
        task(run, **unmasking).check({"vocab_size": size - 1}, None)
    write_meta(folder / "meta.pkl", {**read_meta(folder / "meta.pkl"), "largest_token_id": size - 2})

    task(run, **unmasking).check({"vocab_size": size - 1}, None)


def test_the_checkpoint_files_of_other_runs_are_recorded(run: core.Runtime, initializer: core.ModelInitializer) -> None:
    save_model("filler.pt")
    scoring = task(run, **SCORING)
    scoring.objective(initializer)

    assert scoring.learning is not None and scoring.learning.files == [Path("filler.pt")]


def test_only_a_queue_is_waited_for(run: core.Runtime) -> None:
    fill_queue("queued", "unmasking")
    waiting = task(run, dataset="queued", training_type="unmasking", data_wait_timeout_seconds=0.01)
    waiting.run_data.wait()
    shutil.rmtree("data/queued/queue/val")
    with pytest.raises(core.DataError, match="waited"):
        waiting.run_data.wait()
    task(run).run_data.wait()


# stages


def test_the_data_uses_the_stages_that_stage_progress_has_reached(run: core.Runtime) -> None:
    unmasking = task(run, training_type="unmasking", unmasking_stages=STAGES)

    (progress,) = callbacks_without_timer(unmasking)
    assert isinstance(progress, StageProgress) and unmasking.data.reached() == 1
    progress.current_stage = 1
    assert unmasking.data.reached() == 2


@pytest.mark.parametrize("options", [{"use_all_stages_for_training": True}, {"unmasking_stages": STAGES[:1]}])
def test_without_several_successive_stages_there_is_no_stage_progress(
    run: core.Runtime, options: dict[str, Any]
) -> None:
    unmasking = task(run, **{"training_type": "unmasking", "unmasking_stages": STAGES, **options})

    assert callbacks_without_timer(unmasking) == []
    assert unmasking.data.reached is None and len(unmasking.data.training) == len(unmasking.options.unmasking_stages)


# modifiers


def test_modifiers_get_the_special_ids_and_an_iteration_clock(
    run: core.Runtime, initializer: core.ModelInitializer
) -> None:
    unmasking = task(run, training_type="unmasking", uncertainty_factor=0.1)
    objective = unmasking.objective(initializer)

    assert isinstance(objective, Unmasking) and objective.modifiers is unmasking.modifiers is not None
    assert list(unmasking.modifiers.modifiers[0].special_tokens) == list(range(TEXT, TEXT + 15))  # type: ignore[attr-defined]
    assert [type(callback) for callback in callbacks_without_timer(unmasking)] == [IterationClock]


def test_the_names_of_modifiers_are_logged(
    run: core.Runtime, initializer: core.ModelInitializer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="coregpt"):
        task(run, training_type="unmasking", uncertainty_factor=0.1, z_loss_weight=0.1).objective(initializer)
    assert caplog.messages[-1] == "loss modifiers: LabelSmoothingModifier, ZLossModifier"


def test_modifiers_of_other_training_types_are_skipped_with_a_message(
    run: core.Runtime, initializer: core.ModelInitializer, caplog: pytest.LogCaptureFixture
) -> None:
    unmasking = task(run, training_type="unmasking", loss_modifiers_enabled=True, sequence_variance_enabled=True)

    objective = unmasking.objective(initializer)

    assert isinstance(objective, Unmasking) and objective.modifiers is None and callbacks_without_timer(unmasking) == []
    assert caplog.messages[-1:] == ["SequenceScorerVarianceModifier: not for training_type=unmasking, without effect"]


def test_the_judge_weight_gets_the_seed_and_the_rank(run: core.Runtime, initializer: core.ModelInitializer) -> None:
    save_model("judge.pt", mode="sequence_scorer", cls_token_id=TEXT + 5)
    run.rank = 3
    unmasking = task(
        run, training_type="unmasking", loss_modifiers_enabled=True, judge_weight_modifier_enabled=True,
        judge_weight_checkpoint="judge.pt", seed=7,
    )  # fmt: skip
    unmasking.objective(initializer)

    assert unmasking.modifiers is not None
    modifier: Any = unmasking.modifiers.modifiers[0]
    assert modifier.generator.initial_seed() == 7 + 3


def test_only_rank_0_has_loggers(run: core.Runtime) -> None:
    run.is_master = False

    assert task(run, training_type="unmasking").loggers() == []


@pytest.mark.parametrize("option", ["enable_judge_model", "judge_weight_modifier_enabled"])
def test_a_judge_gets_the_score_scale_and_must_fit_the_block_size(
    run: core.Runtime, initializer: core.ModelInitializer, option: str
) -> None:
    judging = {
        "training_type": "unmasking", "loss_modifiers_enabled": True, option: True,
        "judge_model_checkpoint": "judge.pt", "judge_weight_checkpoint": "judge.pt",
    }  # fmt: skip
    save_model("judge.pt", mode="sequence_scorer", cls_token_id=TEXT + 5)
    wired = task(run, **judging)
    wired.objective(initializer)
    assert wired.modifiers is not None
    modifier: Any = wired.modifiers.modifiers[0]
    assert modifier.judge.transformed == (option == "judge_weight_modifier_enabled")
    save_model("judge.pt", mode="sequence_scorer", cls_token_id=TEXT + 5, block_size=15)
    with pytest.raises(core.CheckpointError, match="block_size=15, wanted 32 and at least 16"):
        task(run, **judging).objective(initializer)


def test_another_mask_token_than_in_the_checkpoint_is_refused(run: core.Runtime) -> None:
    args = {"vocab_size": TEXT + 15}
    for notes in ({"mask_token_id": 20}, {"mask_token_id": None, "meta": {"mask_token_id": 20}}):
        saved = {"config": {"training_type": "unmasking", **notes}}
        task(run, training_type="unmasking", mask_token_id=20).check(args, saved)
        with pytest.raises(ConfigError, match="had mask_token_id=20, here it is 17: set mask_token_id=20"):
            task(run, training_type="unmasking").check(args, saved)
    saved = {"config": {"training_type": "unmasking", "mask_token_id": None, "meta": {"mask_token_id": TEXT}}}
    task(run, training_type="unmasking", mask_token_id=TEXT).check(args, saved)  # the same id, given as an option
    # a language model has no mask
    task(run, mask_token_id=20).check({"vocab_size": TEXT}, {"config": {"mask_token_id": None}})


def test_a_model_without_special_token_ids_is_refused(run: core.Runtime) -> None:
    with pytest.raises(ConfigError, match=rf"has {TEXT} token ids, wanted {TEXT + 15}: .* init_from_checkpoint"):
        task(run, training_type="unmasking").check({"vocab_size": TEXT}, None)


def test_a_nanogpt_checkpoint_is_not_resumed_for_unmasking(run: core.Runtime) -> None:
    with pytest.raises(ConfigError, match="training_type=language_model, not unmasking: resume it with that"):
        task(run, training_type="unmasking").check({"vocab_size": TEXT + 15}, {"config": {"dataset": "tiny"}})


def test_only_scorers_use_the_option_cls_token_id(run: core.Runtime) -> None:
    fill_queue("queued", "unmasking")

    assert task(run, dataset="queued", training_type="unmasking", cls_token_id=3).vocabulary.cls == 8


def test_all_ranks_use_the_file_found_by_rank_0(run: core.Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    wired = task(run, init_from_checkpoint="nowhere.pt")
    monkeypatch.setattr(run, "on_master", lambda look: Path("rank0.pt"))
    fresh, resumed = RunStart("scratch", None, RunFolder("out")), RunStart("resume", CHECKPOINT_FILE, RunFolder("out"))

    assert find_transfer_source(wired.options, run, fresh) == Path("rank0.pt")
    assert find_transfer_source(wired.options, run, resumed) is None  # its weights come from its own checkpoint
    assert find_transfer_source(task(run).options, run, fresh) is None


def test_evaluation_batches_of_a_queue_do_not_consume_training_files(run: core.Runtime) -> None:
    fill_queue("queued", "language_model")
    wired = task(run, dataset="queued")

    wired.run_data.eval_draw("train")
    assert wired.data.state_dict()["file"] is None


def test_a_new_run_does_not_move_the_model_that_it_needs(run_dir: Path, tiny_argv: list[str]) -> None:
    unmasking = [*tiny_argv, "--training_type=unmasking", "--out_dir=mine", "--max_iters=1"]
    train.main(unmasking)
    filler = core.find_checkpoint("mine")
    assert core.load_checkpoint(filler)["config"]["meta"]["mask_token_id"] == TEXT
    before = filler.read_bytes()

    with pytest.raises(ConfigError, match="which a new run clears"):
        train.main(
            [*unmasking, "--training_type=sequence_scoring", "--unmasking_model_checkpoint=mine", "--block_size=8"]
        )
    assert filler.read_bytes() == before


def test_a_new_run_waits_for_data_before_it_moves_any_file(run_dir: Path, tiny_argv: list[str]) -> None:
    train.main([*tiny_argv, "--out_dir=mine", "--max_iters=1"])
    fill_queue("queued", "unmasking")
    shutil.rmtree("data/queued/queue/val")
    before = sorted(Path("mine").iterdir())
    queued = [*tiny_argv, "--dataset=queued", "--training_type=unmasking", "--batch_size=4", "--block_size=16"]

    with pytest.raises(core.DataError, match="waited"):
        train.main([*queued, "--out_dir=mine", "--data_wait_timeout_seconds=0.01"])
    assert sorted(Path("mine").iterdir()) == before
