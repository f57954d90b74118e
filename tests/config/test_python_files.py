"""The names in config files written in Python."""

import ast
import sys
from pathlib import Path

import pytest

from config.python_files import Names, importing_from_here, is_program, names_of, runs_other_files

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "assigned", "declared", "read"),
    [
        ("a = 1\na = b\n", {"a": 2}, {}, {"b"}),
        ("a: int\nb: int = 3\n", {"b": 2}, {"a": 1}, {"int"}),
        ("a: int\na = 3\n", {"a": 2}, {}, {"int"}),
        ("a, (b, *c) = f()\n", {"a": 1, "b": 1, "c": 1}, {}, {"f"}),
        ("a += 1\n", {"a": 1}, {}, {"a"}),
        ("for a in b:\n    c = a\n", {"a": 1, "c": 2}, {}, {"a", "b"}),
        ("if (a := 3):\n    pass\n", {"a": 1}, {}, set()),
        ("def f():\n    a = b\n", {}, {}, {"b"}),
        ("class C:\n    a: int\n    b = 2\n", {}, {}, {"int"}),
        ("c.a = 1\nc['b'] = 2\n", {}, {}, {"c"}),
    ],
)
def test_names(text: str, assigned: dict[str, int], declared: dict[str, int], read: set[str]) -> None:
    assert names_of(ast.parse(text)) == Names(assigned, declared, read)


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("from a import *\n", True),
        ("exec(open('a.py').read())\n", True),
        ("if True:\n    exec('')\n", True),
        ("from a import b\nimport c\nb.exec('')\n", False),
    ],
)
def test_files_that_run_others_are_recognised(text: str, runs: bool) -> None:
    assert runs_other_files(ast.parse(text)) is runs


def test_the_programs_are_known_by_their_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    assert is_program("train.py") and is_program("./sample.py") and is_program(str(ROOT / "train.py"))
    assert not is_program("config/train.py") and not is_program("model.py")
    monkeypatch.chdir(tmp_path)
    assert not is_program("train.py")


@pytest.mark.parametrize("has_init", [False, True])
def test_imports_find_the_config_folder_of_the_current_folder_first(
    has_init: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/mybase.py").write_text("n_layer = 7\n")
    (tmp_path / "config/quickstart.py").write_text("n_layer = 8\n")
    if has_init:
        (tmp_path / "config/__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    ours, before, found = sys.modules["config"], set(sys.modules), {}

    with importing_from_here():
        for name in ("mybase", "quickstart", "train_shakespeare_char"):  # the last one is ours
            exec(f"from config.{name} import n_layer", found)
            found[name] = found["n_layer"]
    assert (found["mybase"], found["quickstart"], found["train_shakespeare_char"]) == (7, 8, 6)
    assert sys.modules["config"] is ours and set(sys.modules) == before
