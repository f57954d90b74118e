"""Legacy checkpoints, converted and used."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import sample
import train
from core.checkpoint.find import find_latest_checkpoint
from core.checkpoint.format import load_checkpoint
from core.errors import CheckpointError, ConfigError
from data.meta import write_meta
from tests.tools.legacy_runs import (
    BIDIRECTIONAL,
    SCORER,
    SIZES,
    State,
    StickyStageConfig,
    as_read,
    converted_model,
    loaded_moments,
    mark,
    our_model,
    outputs,
    train_run,
    train_run_scorer,
)
from tools.convert import convert, main, read
from wiring.architecture import Architecture

SHAPE = {name: value for name, value in SIZES.items() if name != "vocab_size"}  # those that are options
UNMASKING = ["--training_type=unmasking", "--position_encoding=rotary", "--dropout=0.0"]


@pytest.mark.parametrize("args", [{}, BIDIRECTIONAL])
def test_a_language_model_of_the_train_run_line_is_converted(
    args: State, tmp_path: Path, save: Callable[[Any, Path], Path]
) -> None:
    model_before = our_model(**args)
    old = train_run(model_before)
    old["model"]["transformer.h.0.attn.rotary_emb.inv_freq"] = torch.ones(8)  # a buffer that is no longer saved
    checkpoint, notes = convert(read(save(old, tmp_path / "old.pt")))
    assert notes == []
    assert checkpoint["model_args"] == {**SIZES, **args}
    assert torch.equal(
        outputs(checkpoint["model_args"], checkpoint["model"]), outputs({**SIZES, **args}, model_before.state_dict())
    )
    assert (checkpoint["iter_num"], checkpoint["best_val_loss"]) == (7, 2.5)
    assert type(checkpoint["best_val_loss"]) is float
    rotary = {"position_encoding": "rotary"} if args else {}
    assert checkpoint["config"] == {**old["config"], **SHAPE, **rotary}
    stage = {"current_stage": 1, "stale_count": 3, "best_val_loss": 1.5}
    assert checkpoint["callbacks"] == {"StageProgress": stage}
    average = checkpoint["objective"]["EntropyPenaltyModifier"]["multiplier_ema"]
    assert average == 1.25 and not average.requires_grad


def test_a_scorer_of_the_train_run_line_gets_a_cls_embedding() -> None:
    model_before = our_model(**SCORER)
    torch.nn.init.ones_(model_before.sequence_head.slope)
    torch.nn.init.zeros_(model_before.sequence_head.offset)
    checkpoint, notes = convert(as_read(train_run_scorer(model_before)))
    assert checkpoint["model_args"] == {**SIZES, **SCORER}
    scores = outputs(checkpoint["model_args"], checkpoint["model"], scores=True)
    assert torch.equal(scores, outputs({**SIZES, **SCORER}, model_before.state_dict(), scores=True))
    assert any("slope" in note for note in notes)
    model = converted_model(checkpoint)
    moments = loaded_moments(model, model.configure_optimizers(0.1, 1e-2, (0.9, 0.9), "cpu"), checkpoint["optimizer"])
    rows = mark("transformer.wte.weight", model_before.transformer["wte"].weight)
    assert torch.equal(moments["cls_embedding"]["exp_avg"], rows[22])
    assert torch.equal(
        moments["sequence_head.linear.weight"]["exp_avg"], mark("sequence_head.0.weight", torch.ones(1, 32))
    )
    assert not moments["sequence_head.slope"] and "callbacks" not in checkpoint


LOST = (
    "the options of its run are lost, as the checkpoint holds a masking stage in their place: to train on, give its "
    "config file again"
)
NO_DATA = (
    "its data set is not known, and sampling needs the text of its tokens: convert it again with --dataset=NAME "
    "--out=ANOTHER_FOLDER"
)


def test_a_stage_saved_as_the_config_is_no_option(tmp_path: Path, save: Callable[[Any, Path], Path]) -> None:
    old = read(save(train_run(our_model(**BIDIRECTIONAL), config=StickyStageConfig(5, 0.25)), tmp_path / "old.pt"))

    kept = {"training_type": "unmasking", "position_encoding": "rotary", **SHAPE}
    assert convert(old).checkpoint["config"] == kept
    assert convert(old).notes == [LOST, NO_DATA]
    assert convert(old, dataset="tiny").checkpoint["config"] == {**kept, "dataset": "tiny"}
    assert convert(old, dataset="tiny").notes == [LOST]


@pytest.mark.parametrize(
    ("config", "dataset", "notes"),
    [
        ({"dataset": "tiny"}, None, []),
        ({"dataset": "tiny"}, "tiny", []),
        ({"dataset": "tiny"}, "other", ["dataset=other, as given; the checkpoint says tiny"]),
        ({"out_dir": "out"}, None, [NO_DATA]),
        (None, None, [NO_DATA]),
        (None, "other", []),
    ],
)
def test_a_data_set_that_is_not_known_is_noted(config: Any, dataset: str | None, notes: list[str]) -> None:
    converted = convert(as_read(train_run(our_model(), config=config)), dataset=dataset)

    assert converted.notes == notes
    assert converted.checkpoint["config"].get("dataset") == (dataset or (config or {}).get("dataset"))


def test_a_checkpoint_without_its_options_can_be_sampled(
    run_dir: Path, save: Callable[[Any, Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The script of the train_run line overwrites its options with a stage; the data set is given instead."""
    old = save(
        train_run(our_model(**BIDIRECTIONAL), config=StickyStageConfig(5, 0.25)), run_dir / "ckpt_unmasking_7.pt"
    )
    main([str(old), "--dataset=tiny", "--out", "converted"])
    assert f"  {LOST}\n" in capsys.readouterr().out

    sample.main(
        ["--out_dir=converted", "--device=cpu", "--num_samples=1", "--start=ab__c", "--mask_char=_", "--steps=2"]
    )
    text = capsys.readouterr().out.split("meta.pkl...\n")[1]
    assert text[:2] == "ab" and text[4] == "c" and "_" not in text


def test_a_checkpoint_without_its_options_goes_on(run_dir: Path, save: Callable[[Any, Path], Path]) -> None:
    save(train_run(our_model(), config={"dataset": "tiny", "max_iters": 7, "eval_iters": 1}), run_dir / "ckpt_LM_7.pt")
    main(["ckpt_LM_7.pt", "--out=out"])

    train.main(["--init_from=resume", "--out_dir=out", "--device=cpu"])

    assert load_checkpoint(find_latest_checkpoint("out"))["iter_num"] == 8


def test_a_data_set_that_the_checkpoint_names_is_looked_at(
    run_dir: Path, save: Callable[[Any, Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("data/large").mkdir()
    write_meta("data/large/meta.pkl", {"vocab_size": 33})
    for name in ("large", "gone"):
        main([str(save(train_run(our_model(), config={"dataset": name}), run_dir / f"{name}.pt"))])

    printed = capsys.readouterr().out
    assert "  data/large/meta.pkl has 33 tokens, the model only 32: convert it again with the data set that " in printed
    assert "  there is no data/gone/meta.pkl, which sampling needs" in printed


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    torch.save({"wte": torch.ones(2, 2)}, tmp_path / "weights.pt")
    (tmp_path / "pointer.pt").write_text("version https://git-lfs.github.com/spec/v1\n")

    with pytest.raises(
        CheckpointError, match="^[^ ]*weights.pt is bare weights, without model_args: make a checkpoint"
    ):
        main([str(tmp_path / "weights.pt")])
    with pytest.raises(CheckpointError, match="^[^ ]*pointer.pt is a Git LFS pointer, not the file that it stands for"):
        main([str(tmp_path / "pointer.pt")])


def test_a_forks_model_py_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    forks = Architecture(torch.nn.Module, dict, {})
    monkeypatch.setattr("tools.legacy_model.load_architecture", lambda: forks)

    with pytest.raises(ConfigError, match="^model.py is not coreGPT's, which the weights are converted for: put "):
        convert(as_read(train_run(our_model())))


def test_the_given_data_set_must_fit_the_model(
    run_dir: Path, save: Callable[[Any, Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    old = str(save(train_run(our_model()), run_dir / "ckpt_unmasking_7.pt"))
    Path("data/large").mkdir()
    write_meta("data/large/meta.pkl", {"vocab_size": 33})

    with pytest.raises(ConfigError, match="^--dataset=large has 33 tokens, the model only 32: give the data set that"):
        main([old, "--dataset=large"])
    assert not Path("ckpt_unmasking_7-converted").exists()
    main([old, "--dataset=gone"])
    assert "  there is no data/gone/meta.pkl, which sampling needs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ranks": []}, "nothing to convert"),
        ({"model": None}, "no model"),
        ({"model": {"a": 1}}, "no tensors"),
        ({"model_args": {"n_layer": 2}}, "lack n_head"),
        ({"model_args": {**SIZES, "n_layer": 1}}, "not known"),
        ({"model_args": {**SIZES, "n_layer": 3}}, "is missing"),
        ({"model_args": {**SIZES, "vocab_size": 31}}, "wanted .31, 32."),
    ],
)
def test_anything_but_a_legacy_checkpoint_is_refused(change: State, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        convert({**as_read(train_run(our_model())), **change})


def test_the_result_is_written_next_to_the_old_file_and_overwrites_nothing(
    tmp_path: Path, save: Callable[[Any, Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    old = save(train_run(our_model(), optimizer=None), tmp_path / "ckpt_unmasking_7.pt")
    capsys.readouterr()
    target = main([str(old)])
    assert target == tmp_path / "ckpt_unmasking_7-converted" / "ckpt.pt"
    first, note, _ = capsys.readouterr().out.splitlines()
    assert first == f"{target}: the unmasking model of {old}, after 7 iterations"
    assert note.startswith("  no optimizer state (the checkpoint has none)")
    with pytest.raises(ConfigError, match="exists already"):
        main([str(old)])
    assert main([str(tmp_path), "--out", str(tmp_path / "here" / "mine.pt")]).is_file()
    assert load_checkpoint(tmp_path / "here" / "mine.pt")["model_args"] == SIZES


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, save: Callable[[Any, Path], Path]) -> None:
    save(train_run(our_model()), tmp_path / "old.pt")
    (tmp_path / "taken").touch()

    with pytest.raises(ConfigError, match=r"^--out=.*taken/new\.pt cannot be written \(.*\): choose another place$"):
        main([str(tmp_path / "old.pt"), f"--out={tmp_path}/taken/new.pt"])


def test_an_error_names_the_file(tmp_path: Path) -> None:
    torch.save({"weights": 1}, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match="ckpt.pt: this is not a checkpoint of the train_run, the core"):
        main([str(tmp_path)])
    assert os.listdir(tmp_path) == ["ckpt.pt"]


def test_a_converted_checkpoint_can_be_resumed_and_used_by_other_runs(
    run_dir: Path, tiny_argv: list[str], save: Callable[[Any, Path], Path]
) -> None:
    filler, scorer = our_model(**BIDIRECTIONAL), our_model(**SCORER)
    stages = [{"type": "random", "max_masked_ratio": ratio, "val_loss_stale_count": 9} for ratio in (0.3, 0.5, 0.7)]
    Path("stages.py").write_text(f"unmasking_stages = {stages}\n")
    main([str(save(train_run(filler), run_dir / "ckpt_unmasking_7.pt")), "--out", "out"])
    main([str(save(train_run_scorer(scorer), run_dir / "ckpt_sequence_scorer_7.pt")), "--out", "judge"])

    argv = [*tiny_argv, *UNMASKING, "stages.py", "--out_dir=out", "--max_iters=8", "--eval_interval=8"]
    train.main([*argv, "--init_from=resume"])
    resumed = load_checkpoint(find_latest_checkpoint("out"))
    assert resumed["iter_num"] == 9
    assert all(moments["step"] == 9 for moments in resumed["optimizer"]["state"].values())
    progress = resumed["callbacks"]["StageProgress"]
    assert progress["current_stage"] == 1 and progress["stale_count"] == 4 and progress["best_val_loss"] == 1.5

    main([str(run_dir / "ckpt_unmasking_7.pt"), "--out", "filler"])
    use = ["--init_from_checkpoint=filler", "--unmasking_model_checkpoint=filler", "--training_type=sequence_scoring"]
    train.main([*tiny_argv, *UNMASKING, *use, "--out_dir=scorer", "--max_iters=1", "--eval_interval=1"])
    assert load_checkpoint("scorer/ckpt.pt")["model_args"]["mode"] == "sequence_scorer"
    judge = ["--enable_judge_model=True", "--judge_model_checkpoint=judge"]
    train.main([*tiny_argv, *UNMASKING, *judge, "--out_dir=judged", "--max_iters=1", "--eval_interval=1"])
    assert Path("judged/ckpt.pt").is_file()
