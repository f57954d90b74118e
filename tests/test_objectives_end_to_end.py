"""Every objective through train.py: a run that is stopped and resumed has the same run hash as an undisturbed run."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from benchmark.soak.campaign import ranks, tiny_argv, write_tiny_data
from core.callback import Callback
from core.checkpoint.manager import CheckpointManager
from core.errors import CoreGPTError, PreemptedError
from core.trainer import Trainer
from data.corpus import write_text
from data.streaming.char_text import CharText
from data.streaming.masked import MaskedProvider
from data.tokenizers import CharTokenizer
from tests.data.streaming.conftest import LINES, producer
from tests.test_exact_resume import StopAt, copy_until_checkpoint
from tools.run_hash import run_hash

STAGES = [
    {"type": "sticky", "target_masked_ratio": 0.4, "p1_probability": 0.15, "p2_probability": 0.3,
     "val_loss_stale_count": 1},
    {"type": "span", "spans_count": 3, "val_loss_stale_count": 1},
    {"type": "line", "min_ratio": 0.2, "max_ratio": 0.6, "val_loss_stale_count": 9},
]  # fmt: skip
UNMASKING: dict[str, Any] = dict(training_type="unmasking", unmasking_stages=STAGES, learning_rate=0.3, eval_interval=1)
CLASSIFYING: dict[str, Any] = dict(training_type="token_classification", random_mask_warmup=5, p1_p2_ratio=0.5)
SCORING: dict[str, Any] = dict(
    training_type="sequence_scoring", unmasking_model_checkpoint="filler", unmasking_stages=STAGES, fill="sample",
    init_from_checkpoint="filler", freeze_transformer=True, unfreeze_at_iteration=4, loss_modifiers_enabled=True,
    sequence_variance_enabled=True, sequence_correlation_enabled=True,
)  # fmt: skip
MODIFIED: dict[str, Any] = dict(
    training_type="unmasking", unmasking_stages=STAGES[:2], use_all_stages_for_training=True, z_loss_weight=1e-3,
    uncertainty_factor=0.1, enable_entropy_penalty=True, entropy_penalty_start_iter=2, loss_mean="sequences",
    enable_judge_model=True, judge_model_checkpoint="scorer", loss_modifiers_enabled=True,
    target_smoothing_enabled=True, entropy_modifier_enabled=True, mask_ratio_weight_enabled=True,
    judge_weight_modifier_enabled=True, judge_weight_checkpoint="scorer", judge_start_iter=1, judge_max_iter=6,
)  # fmt: skip
QUEUED: dict[str, Any] = dict(
    dataset="queued", training_type="unmasking", keep_last=99
)  # no file of the queue is removed
UNFREEZING: dict[str, Any] = dict(trainable="ln_f.*", unfreeze_at_iteration=4)
ADAPTIVE: dict[str, Any] = dict(lr_schedule="adaptive", lr_patience=1, learning_rate=0.3, eval_interval=1)
RUNS = {
    "unmasking": UNMASKING, "classifying": CLASSIFYING, "scoring": SCORING, "modified": MODIFIED, "queued": QUEUED,
    "unfreezing": UNFREEZING, "adaptive": ADAPTIVE,
}  # fmt: skip
LAST = 8  # iter_num after the updates of a run


def argv(out_dir: str, options: dict[str, Any], **changes: Any) -> list[str]:
    """Return the command line of a run of 8 updates with dropout, by default evaluated in iterations 0, 3 and 6."""
    run = dict(max_iters=LAST - 1, lr_decay_iters=LAST - 1, eval_interval=3, out_dir=out_dir)
    return tiny_argv(**{**run, **options, **changes})


def fill_queue(folder: Path) -> None:
    """Make six files of four masked batches; a run takes 17 batches."""
    words = "".join(LINES) * 60
    write_text(folder / "text", words, CharTokenizer.from_text(words))
    provider = MaskedProvider(CharText(folder / "text"), 4, 16, mask_probability=0.3)
    producer(folder, provider, batches_per_file=4, max_backlog_files=6).run(once=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with data/tiny, data/queued, an unmasking run `filler`, and `scorer`, which starts from it."""
    folder = tmp_path_factory.mktemp("runs")
    write_tiny_data(folder)
    fill_queue(folder / "data" / "queued")
    before = Path.cwd()
    os.chdir(folder)
    try:
        train.main(argv("filler", UNMASKING, learning_rate=0.01, max_iters=20))
        train.main(argv("scorer", SCORING, max_iters=4))
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(autouse=True)
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Enter the folder; fill the queue again if a test has consumed it."""
    monkeypatch.chdir(folder)
    if files("data/queued/queue/train") != list(range(6)):
        shutil.rmtree("data/queued")
        fill_queue(Path("data/queued"))
    yield


def records(out_dir: str, event: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in Path(out_dir, "metrics.jsonl").read_text().splitlines())
    return [record for record in lines if record["event"] == event]


def saved(out_dir: str) -> dict[str, Any]:
    return torch.load(CheckpointManager(out_dir).load().path, weights_only=True)


def undisturbed(name: str) -> Path:
    """Return the folder of an undisturbed run with a checkpoint of every iteration; trained at the first call."""
    if not Path(name).exists():
        train.main(argv(name, RUNS[name], save_interval=1, keep_last=99, log_interval=1))
    return Path(name)


# stopped and resumed


@pytest.mark.parametrize("name", RUNS)
def test_a_run_resumed_from_an_old_checkpoint_ends_like_the_undisturbed(name: str) -> None:
    for sequence in (2, 4):  # before and after the start of a stage and the unfreezing
        folder = copy_until_checkpoint(undisturbed(name), sequence, Path(f"{name}-from{sequence}"))
        train.main(argv(str(folder), RUNS[name], init_from="resume", log_interval=1))
        assert run_hash(folder) == run_hash(name), f"resumed from checkpoint {sequence}"


@pytest.mark.parametrize(("name", "iter_num", "event"), [
    ("unmasking", 2, "on_eval_end"), ("classifying", 3, "on_step_begin"), ("scoring", 4, "on_step_begin"),
    ("scoring", 4, "on_step_end"), ("modified", 3, "on_eval_begin"), ("queued", 4, "on_step_begin"),
    ("unfreezing", 4, "on_step_end"), ("adaptive", 5, "on_eval_end"),
])  # fmt: skip
def test_a_preempted_run_resumes_and_ends_like_the_undisturbed_one(name: str, iter_num: int, event: str) -> None:
    out_dir, expected = f"{name}-{event}", run_hash(undisturbed(name))
    with pytest.raises(PreemptedError):
        train.main(argv(out_dir, RUNS[name], log_interval=1), [StopAt(iter_num, event)])

    train.main(argv(out_dir, RUNS[name], log_interval=1, init_from="resume"))

    assert run_hash(out_dir) == expected


def test_two_ranks_resume_exactly() -> None:
    undisturbed_argv = argv("two-undisturbed", UNMASKING, save_interval=1, keep_last=99)
    assert ranks(lambda: train.main(undisturbed_argv) and None) == [0, 0]
    folder = copy_until_checkpoint(Path("two-undisturbed"), 4, Path("two-resumed"))
    resume = argv(str(folder), UNMASKING, init_from="resume")
    assert ranks(lambda: train.main(resume) and None) == [0, 0]

    assert run_hash(folder) == run_hash("two-undisturbed")
    first, second = (rank["batch"]["target"] for rank in saved("two-undisturbed")["ranks"])
    assert not torch.equal(first, second)  # each rank has its own rows
    assert saved("two-undisturbed")["callbacks"]["StageProgress"]["current_stage"] == 2


class SetsNaN(Callback):
    """Sets the first parameter to NaN, once."""

    def __init__(self, iter_num: int) -> None:
        self.iter_num, self.done = iter_num, False

    def on_step_begin(self, trainer: Trainer) -> None:
        if trainer.iter_num == self.iter_num and not self.done:
            self.done = True
            with torch.no_grad():
                next(trainer.raw_model.parameters()).fill_(float("nan"))


def test_a_recovery_restores_the_stages() -> None:
    """The evaluation of iteration 3 begins stage 2; the run rolls back to iteration 2, and begins stage 2 again."""
    train.main(argv("recovered", UNMASKING, save_interval=2, always_save_checkpoint=False), [SetsNaN(3)])

    (recovery,) = records("recovered", "recovery")
    assert recovery["history"][0]["back_to"] == 2
    assert [(record["iter"], record["stage"]) for record in records("recovered", "stage")] == [(1, 1), (3, 2)]
    assert saved("recovered")["iter_num"] == LAST


def test_a_queue_is_consumed_and_the_run_resumes_exactly() -> None:
    expected = run_hash(undisturbed("queued"))
    shutil.rmtree("data/queued")
    fill_queue(Path("data/queued"))
    options = {**QUEUED, "keep_last": 1, "save_interval": 1}
    with pytest.raises(PreemptedError):
        train.main(argv("consuming", options, log_interval=1), [StopAt(5, "on_step_begin")])
    files_at_stop = files("data/queued/queue/train")

    train.main(argv("consuming", options, log_interval=1, init_from="resume"))

    files_at_end = files("data/queued/queue/train")
    assert run_hash("consuming") == expected
    assert 0 < files_at_stop[0] < files_at_end[0] and files_at_stop[-1] == files_at_end[-1] == 5


def files(queue: str) -> list[int]:
    """Return the numbers of the files in a queue, including those in use."""
    return sorted(int(path.name.split("-")[1]) for path in Path(queue).rglob("*.pt"))


class RecordsStart(Callback):
    """Records the iteration in which a run began."""

    iter_num = -1

    def on_train_begin(self, trainer: Trainer) -> None:
        self.iter_num = trainer.iter_num


def test_a_checkpoint_can_be_chosen_by_its_file_name() -> None:
    shutil.copytree(undisturbed("classifying"), "named")
    shutil.copy("named/ckpt-000003.pt", "named/mine.pt")
    named, newest = torch.load("named/mine.pt", weights_only=True)["iter_num"], saved("named")["iter_num"]
    start = RecordsStart()

    train.main(argv("named", CLASSIFYING, init_from="resume", ckpt_filename="mine.pt", log_interval=1), [start])

    assert 0 < named < newest and start.iter_num == named
    assert run_hash("named") == run_hash("classifying")
    with pytest.raises(CoreGPTError, match=r"no checkpoint at named/none\.pt: ckpt_filename is the name of a file"):
        train.main(argv("named", CLASSIFYING, init_from="resume", ckpt_filename="none.pt"))


# the training of the runs above


def test_only_the_trainable_part_trains_before_the_unfreezing() -> None:
    paths = sorted(undisturbed("unfreezing").glob("ckpt-0*.pt"))
    models = {
        checkpoint["iter_num"]: checkpoint["model"]
        for checkpoint in (torch.load(path, weights_only=True) for path in paths)
    }
    body = [name for name in models[1] if name.startswith("transformer.h.")]

    changed = {number: any(not torch.equal(models[number][n], models[1][n]) for n in body) for number in (2, 4, 5, 8)}

    assert changed == {2: False, 4: False, 5: True, 8: True}
    assert not torch.equal(models[2]["transformer.ln_f.weight"], models[1]["transformer.ln_f.weight"])


def test_the_learning_rate_falls_when_the_validation_loss_does_not() -> None:
    undisturbed("adaptive")
    rates = {record["iter"]: record["lr"] for record in records("adaptive", "step")}
    losses = [record["val/loss"] for record in records("adaptive", "eval")]

    stale = sum(loss >= min(losses[:n]) for n, loss in enumerate(losses[: LAST - 1]) if n)
    assert stale >= 2  # with a patience of one, each halves the rate from the next iteration on
    assert rates[LAST - 1] == pytest.approx(max(0.3 / 2**stale, 1e-3))


def test_stages_advance_in_the_run() -> None:
    stages = records(str(undisturbed("unmasking")), "stage")

    assert [record["stage"] for record in stages] == [1, 2]
    assert 0 < stages[0]["iter"] < stages[1]["iter"] < LAST - 1  # each stage is trained
    evaluation = records("unmasking", "eval")[-1]
    assert {f"val/stage_{n}_samples" for n in range(3)} <= evaluation.keys()


def test_training_data_does_not_depend_on_evaluation() -> None:
    options = {**UNMASKING, "unmasking_stages": STAGES[:2], "use_all_stages_for_training": True, "learning_rate": 1e-3}
    weights = []
    for number, (interval, iters) in enumerate([(100, 1), (2, 3)]):
        train.main(argv(f"evaluated{number}", options, eval_interval=interval, eval_iters=iters, max_iters=4))
        weights.append(saved(f"evaluated{number}")["model"])

    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_transformer_of_a_scorer_trains_only_after_the_unfreezing() -> None:
    start = torch.load("filler/ckpt.pt", weights_only=True)["model"]  # the scorer's transformer starts from it
    paths = undisturbed("scoring").glob("ckpt-0*.pt")
    models = {
        checkpoint["iter_num"]: checkpoint["model"]
        for checkpoint in (torch.load(path, weights_only=True) for path in paths)
    }
    body = [name for name in start if name.startswith("transformer.h.")]

    changed = {number: not all(torch.equal(models[number][n], start[n]) for n in body) for number in (1, 4, 5, 8)}

    assert changed == {1: False, 4: False, 5: True, 8: True}
    assert not torch.equal(models[4]["sequence_head.linear.weight"], models[1]["sequence_head.linear.weight"])


def test_steps_report_every_modifier_and_evaluations_none() -> None:
    last = records(str(undisturbed("modified")), "step")[-1]

    known = {name.split("/")[1].split(".")[0] for name in last if name.startswith("loss_modifiers/")}
    assert known == {
        "TargetSmoothingModifier", "LabelSmoothingModifier", "ZLossModifier", "EntropyModifier",
        "EntropyPenaltyModifier", "MaskRatioWeightModifier", "SequenceScoringJudgeWeightModifier",
        "JudgeFactorModifier",
    }  # fmt: skip
    assert last["loss_modifiers/EntropyPenaltyModifier.entropy_penalty"] > 0
    assert not any(name.startswith("loss_modifiers/") for record in records("modified", "eval") for name in record)


# errors


@pytest.mark.parametrize(("options", "message"), [
    ({**SCORING, "unmasking_model_checkpoint": "nowhere"}, "nowhere"),
    ({**SCORING, "unmasking_model_checkpoint": "scorer"}, "is a sequence_scorer, wanted a language_model"),
    ({**SCORING, "block_size": 40, "init_from_checkpoint": None}, "block_size=16, wanted 32 and at least 39"),
    ({**SCORING, "cls_token_id": 40, "init_from_checkpoint": None}, "has vocab_size=32 and .* wanted 41 and"),
    ({**MODIFIED, "judge_model_checkpoint": "filler"}, "is a language_model, wanted a sequence_scorer"),
    ({**MODIFIED, "judge_weight_checkpoint": "nowhere"}, "nowhere"),
    ({**MODIFIED, "mask_token_id": 50}, "has vocab_size=32 and .* wanted 51 and"),
    ({**SCORING, "cls_token_id": 3}, "^cls_token_id=3 is inside the text's vocabulary of 17 tokens"),
    ({**UNMASKING, "unmasking_stages": [{"type": "span", "spans_count": 17, "val_loss_stale_count": 1}]},
     r"^unmasking_stages\[0\] \(span, 17 spans\): spans_count is 17, wanted 16 or fewer"),
])  # fmt: skip
def test_one_clear_message_before_training_begins(options: dict[str, Any], message: str) -> None:
    with pytest.raises(CoreGPTError, match=message) as error:
        train.main(argv("refused", options))

    assert "\n" not in str(error.value)
    assert not list(Path("refused").glob("*.pt")) and not Path("refused", "metrics.jsonl").exists()
