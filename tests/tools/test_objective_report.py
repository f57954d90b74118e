"""The pictures of a run, and the values drawn in them."""

import json
from pathlib import Path

import pytest

import train
from core import Runtime
from core.errors import CheckpointError, ConfigError
from tools.objective_pictures import FILLED, GIVEN, MASKED, NEW, RIGHT, WRONG, Evaluation
from tools.objective_report import STEPS, Run, fill, filling_rows, find_line, main, read_timeline, score
from wiring.model import model_args

RANDOM = {"type": "random", "max_masked_ratio": 0.5, "val_loss_stale_count": 0}
STAGES = [RANDOM, {"type": "span", "spans_count": 3, "val_loss_stale_count": 0}]


@pytest.fixture
def unmasking(run_dir: Path, tiny_argv: list[str]) -> Path:
    """Return the folder of a short unmasking run."""
    train.main([*tiny_argv, "--training_type=unmasking", f"--unmasking_stages={STAGES}", "--out_dir=out-u"])
    return Path("out-u")


def test_an_unmasking_run_gets_a_filling_and_a_timeline(unmasking: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    # in a short run the loss only falls and the first stage does not end: add the event of a second stage
    with open(unmasking / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"event": "stage", "iter": 3, "stage": 1}) + "\n")
    capsys.readouterr()
    main([str(unmasking), "--to", "pictures"])

    assert capsys.readouterr().out.endswith("wrote pictures/filling.png\nwrote pictures/timeline.png\n")
    assert all(Path("pictures", name).read_bytes().startswith(b"\x89PNG") for name in ("filling.png", "timeline.png"))


def test_all_masked_tokens_of_a_line_are_filled_and_given_tokens_stay(unmasking: Path) -> None:
    with Runtime(device="cpu") as runtime:
        rows = fill(Run(unmasking, runtime), seed=7)
    kinds = [[cell.kind for cell in cells] for _, cells in rows]
    given_positions = [position for position, kind in enumerate(kinds[0]) if kind == GIVEN]

    assert [label for label, _ in rows] == ["masked", *(f"step {number + 1}" for number in range(STEPS)), "original"]
    assert kinds[0].count(MASKED) == 8  # half of 16
    assert MASKED in kinds[1] and MASKED not in kinds[-2]
    assert all(cells[position] == rows[-1][1][position] for _, cells in rows for position in given_positions)


def test_a_scorers_scatter_has_the_metrics_of_its_evaluation(
    unmasking: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    argv = [*tiny_argv, "--training_type=sequence_scoring", "--unmasking_model_checkpoint=out-u", "--out_dir=out-s"]
    train.main([*argv, "--block_size=16", "--max_iters=0"])
    with Runtime(device="cpu") as runtime:
        run = Run(Path("out-s"), runtime)
        runtime.seed_all()
        # the model as it was when it was evaluated
        run.model = run.initializer.create_model_from_scratch(model_args(run.options, run.data)).model.eval()
        targets, scores, figures = score(run)
    logged = json.loads(Path("out-s/metrics.jsonl").read_text().splitlines()[1])  # after the record of the run
    main(["out-s"])

    assert len(targets) == len(scores) == 8  # 2 batches of 4
    assert {name: logged[name] for name in figures} == pytest.approx(figures, rel=1e-5)
    assert capsys.readouterr().out.endswith("wrote out-s/scatter.png\n")


def test_a_run_without_pictures_is_refused(run_dir: Path, tiny_argv: list[str]) -> None:
    train.main([*tiny_argv, "--out_dir=out-lm", "--max_iters=1"])

    with pytest.raises(ConfigError, match="no picture for out-lm: it is a language_model run"):
        main(["out-lm"])


def test_states_mark_new_tokens_and_the_original_marks_correct_ones() -> None:
    rows = filling_rows([[1, 9, 9], [1, 2, 9], [1, 2, 3]], [1, 2, 4], mask_id=9, decode=str)

    assert [label for label, _ in rows] == ["masked", "step 1", "step 2", "original"]
    assert [[cell.kind for cell in cells] for _, cells in rows] == [
        [GIVEN, MASKED, MASKED], [GIVEN, NEW, MASKED], [GIVEN, FILLED, NEW], [GIVEN, RIGHT, WRONG],
    ]  # fmt: skip
    assert ["".join(cell.text for cell in cells) for _, cells in rows] == ["124", "124", "123", "124"]


def test_find_line_returns_a_line_of_medium_length() -> None:
    text = "x" * 40 + "\n" + "short\n" + "y" * 80 + "\n" + "z" * 50 + "\n" + "w" * 40
    begin, end = find_line([ord(char) for char in text], ord("\n"))

    assert text[begin:end] == "z" * 50
    assert find_line(list(range(100)), None) == (14, 86)
    assert find_line([1, 2, 3], 1) == (0, 3)


def test_a_timeline_keeps_the_later_of_two_and_skips_non_finite_losses(tmp_path: Path) -> None:
    records = [
        {"event": "eval", "iter": 0, "train/loss": 4.0, "val/loss": 4.1,
         "val/stage_0_loss": 4.2, "val/stage_0_samples": 8},
        {"event": "step", "iter": 0, "loss": 4.0},
        {"event": "eval", "iter": 5, "train/loss": 3.9, "val/loss": 3.8},
        {"event": "stage", "iter": 5, "stage": 1},
        {"event": "eval", "iter": 5, "train/loss": 3.0, "val/loss": 3.1,
         "val/stage_0_loss": None, "val/stage_1_loss": 3.3},
        {"event": "eval", "iter": 9, "train/loss": None, "val/loss": 3.1},
        {"event": "eval", "iter": 10, "val/loss": 3.1},
        {"event": "eval", "iter": "x", "train/loss": 3.0, "val/loss": 3.1},
        {"event": "stage", "iter": 9},
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records) + '{"event": "ev')

    assert read_timeline(tmp_path) == (
        [Evaluation(0, 4.0, 4.1, {0: 4.2}), Evaluation(5, 3.0, 3.1, {1: 3.3})],
        [(5, 1)],
    )


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at .*set out_dir"):
        main([str(tmp_path / "absent")])
