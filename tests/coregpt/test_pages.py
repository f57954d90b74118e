"""The programs on docs/python.md run as they stand there."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_parts_of_the_users_own_train(run_dir: Path) -> None:
    (program,) = [program for program in PROGRAMS if "class Counting" in program]
    exec(program, {"__name__": "page"})

    assert Path("out-counting/ckpt.pt").is_file()


def test_the_beginning_trains_and_writes(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = '["quickstart", "--max_iters=2", "--eval_interval=1", "--eval_iters=1", "--n_layer=1", "--n_embd=16"]'
    beginning = PROGRAMS[0].replace('coregpt.train("quickstart")', f"coregpt.train({few})")
    assert beginning != PROGRAMS[0]
    names: dict[str, object] = {}
    exec(beginning, names)

    assert names["result"].out_dir == "out-quickstart"  # type: ignore[attr-defined]
    assert len(capsys.readouterr().out.split("out-quickstart\n")[-1]) > 100


def test_options_are_made_changed_and_saved(run_dir: Path) -> None:
    exec("import coregpt\n" + PROGRAMS[1].replace("coregpt.train(", "kept = ("), names := {})  # type: ignore[var-annotated]

    assert names["kept"] == names["deeper"] and names["kept"].n_layer == 6
