"""The example of a trainer wired by hand, run as its docstring says."""

import ast
import re
import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_trainer.py"


def test_the_example_learns_to_count_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLE), run_name="__main__")

    printed = capsys.readouterr().out
    losses = [float(loss) for loss in re.findall(r"iter \d+: loss (.*?),", printed)]
    assert len(losses) == 11 and losses[0] > 2.0 > 0.1 > losses[-1]
    assert float(printed.splitlines()[-1].removeprefix("lowest validation loss: ")) < 0.1
    assert Path("out-custom/ckpt.pt").exists()


def test_the_example_has_at_most_25_lines_of_code() -> None:
    tree = ast.parse(EXAMPLE.read_text())
    not_code = (ast.Import, ast.ImportFrom, ast.Module)
    is_docstring = {
        id(node.body[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node)
    }
    lines = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt) and not isinstance(node, not_code) and id(node) not in is_docstring
        for line in (node.lineno, node.end_lineno if not hasattr(node, "body") else node.lineno)
    }

    assert len(lines) <= 25
