"""Callbacks from a file: what is attached, in which order, and one message for each mistake."""

import logging
import random
import sys
from pathlib import Path
from typing import Any

import pytest

import core
import train
from benchmark.soak.campaign import ranks
from config.options import Options
from configurator import configure
from core.checkpoint.format import load_checkpoint
from tests.core.test_callback import CallRecorder
from wiring.callbacks_file import load_callbacks, user_callbacks


def written(text: str, name: str = "mine.py") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def names(path: Path) -> list[str]:
    return [type(callback).__name__ for callback in load_callbacks(path)]


MIXED_FILE = """
from __future__ import annotations
from abc import ABC, abstractmethod
from dataclasses import dataclass
from core import Callback
from extras.ema import EMA

@dataclass
class Settings:
    every: int = 3

class Base(ABC):
    @abstractmethod
    def on_epoch_end(self, epoch): ...

class _Quiet(Callback):
    pass

class Second(Base):
    def on_epoch_end(self, epoch): ...

@dataclass
class First(Callback):
    every: int = 3

class Third:
    def on_step_end(self, trainer, result): ...

Alias = Third
"""


def test_the_classes_of_a_file_are_attached_in_its_order(run_dir: Path) -> None:
    """Not imported, abstract or private ones, nor those without events."""
    assert names(written(MIXED_FILE)) == ["Second", "First", "Third"]


def test_a_list_of_instances_takes_precedence(run_dir: Path) -> None:
    path = written(MIXED_FILE + "\ncallbacks = [EMA(0.5), First(every=7)]\n")
    average, first = load_callbacks(path)

    assert (average.decay, first.every) == (0.5, 7)


RECORDS = """
class Records:
    def on_batch_end(self, state):
        with open("seen.txt", "a") as file:
            print(state.global_step, file=file)
    def state_dict(self):
        return {"seen": 1}
    def load_state_dict(self, state):
        assert state == {"seen": 1}
"""


def test_the_option_attaches_them_and_a_resume_does_so_too(run_dir: Path, tiny_argv: list[str]) -> None:
    path = written(RECORDS, "own folder/mine.py")
    train.main([*tiny_argv, "--max_iters=3", f"--callbacks_file={path}"])
    train.main(["--init_from=resume", "--out_dir=out"])  # with the options of that run, which has ended
    train.main([*tiny_argv, "--init_from=resume", "--max_iters=5", f"--callbacks_file={path}"])

    assert Path("seen.txt").read_text().split() == list("123456")
    assert load_checkpoint("out/ckpt-000002.pt")["callbacks"]["Records"] == {"seen": 1}


def test_without_a_file_there_is_nothing(run_dir: Path, tiny_argv: list[str]) -> None:
    assert user_callbacks(configure(Options, tiny_argv)) == []
    assert user_callbacks(configure(Options, [*tiny_argv, "--callbacks_file=None"])) == []


def test_every_rank_loads_the_file(run_dir: Path, tiny_argv: list[str]) -> None:
    path = written("""
import os
class Marks:
    def on_train_end(self):
        open("rank" + os.environ["RANK"], "w").close()
""")
    argv = [*tiny_argv, "--max_iters=1", f"--callbacks_file={path}"]

    assert ranks(lambda: train.main(argv)) == [0, 0]  # type: ignore[arg-type,return-value]
    assert Path("rank0").exists() and Path("rank1").exists()


def test_the_file_comes_before_callbacks_from_python(run_dir: Path) -> None:
    options = Options(callbacks_file=str(written(RECORDS)))
    recorder = CallRecorder()

    first, second = user_callbacks(options, [recorder])
    assert type(first).__name__ == "Records" and second is recorder


def test_imports_of_the_file_find_its_own_folder_first(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a module with the name of one of ours; the standard library's stay, and the folder is last afterwards."""
    written("NUMBER = 7", "own/model.py")
    written("LATE = 8", "own/imported_late.py")
    written("from core import Callback", "own/helper_of_mine.py")
    written("", "own/random.py")
    path = written(
        """
import random
from helper_of_mine import Callback
from model import NUMBER
class Mine(Callback):
    number, draw = NUMBER, random.random()
    def late(self):
        from imported_late import LATE
        return LATE
""",
        "own/mine.py",
    )
    before, ours = list(sys.path), sys.modules["model"]

    monkeypatch.setattr(sys, "path", before.copy())
    (mine,) = load_callbacks(path)

    assert mine.late() == 8 and mine.number == 7 and isinstance(mine, core.Callback)
    assert (
        sys.path == [*before, str(path.parent.resolve())]
        and sys.modules["model"] is ours
        and sys.modules["random"] is random
    )
    other = written("from helper_of_mine import X\nclass Mine:\n    on_epoch_end = X", "other/mine.py")
    written("X = print", "other/helper_of_mine.py")
    assert load_callbacks(other)[0].on_epoch_end is print


def test_the_example_on_the_page_works(run_dir: Path, tiny_argv: list[str]) -> None:
    page = (Path(train.__file__).parent / "docs" / "callbacks.md").read_text()
    path = written(page.split("```python\n")[1].split("```")[0])
    train.main([*tiny_argv, "--max_iters=1", f"--callbacks_file={path}"])

    assert names(path) == ["Patience"]


MISTAKES = {
    "x = 1": r"mine.py: it defines no callback: wanted a class with a method such as on_step_end or on_epoch_end, or a",
    "callbacks = []": r"mine.py: it defines no callback: wanted",
    "def f(:": r"mine.py:1: running it fails with SyntaxError: invalid syntax; mend it, or remove callbacks_file",
    "import os\n\nos.nothing": r"mine.py:3: running it fails with AttributeError: module 'os' has no attribute 'noth",
    "import sys\nsys.exit('bye')": r"mine.py:2: running it fails with SystemExit: bye; mend it",
    "a = 1\0": r"mine.py(:\d+)?: running it fails with \w+: source code string cannot contain null bytes; mend it",
    "from extras.early_stopping import EarlyStopping\ncallbacks = [\n    EarlyStopping(patience=0)]":
        r"mine.py:3: running it fails with ConfigError: EarlyStopping\(patience=0\): wanted a whole number",
    "class A:\n    def __init__(self, x, y=1): ...\n    def on_epoch_end(self, epoch): ...":
        r"mine.py: A needs arguments, A\(x, y=1\): give them default values, or end the file with a list of instances, "
        r"`callbacks = \[A\(...\)\]`",
    "class A:\n    def __init__(self):\n        1 / 0\n    def on_epoch_end(self, epoch): ...":
        r"mine.py:3: running it fails with ZeroDivisionError: division by zero; mend it",
    "class A:\n    def on_epoch_end(self, bleu, rouge): ...":
        r"mine.py: A: A.on_epoch_end takes rouge, which nothing is known for: wanted names among batch_idx, ",
    "class A:\n    def on_epoch_end(self): ...\ncallbacks = [A]":
        r"mine.py: callbacks\[0\] is the class A: wanted an instance of it, A\(\)",
    "callbacks = [3]": r"mine.py: callbacks\[0\] is a int without events: wanted a class with a method such as",
}  # fmt: skip


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_in_the_file_is_one_message(run_dir: Path, tiny_argv: list[str], text: str) -> None:
    path = written(text)
    before = list(sys.path)

    with pytest.raises(core.ConfigError, match=f"^{MISTAKES[text]}") as error:
        train.main([*tiny_argv, f"--callbacks_file={path}"])
    assert error.value.exit_status == 2 and not Path("out").exists() and sys.path == before


def test_an_error_in_a_module_that_the_file_imports_is_placed_there(run_dir: Path) -> None:
    written("\n\n1 / 0", "own/broken_part.py")
    path = written("import broken_part", "own/mine.py")

    with pytest.raises(core.ConfigError, match=r"own/broken_part.py:3: running it fails with ZeroDivisionError"):
        load_callbacks(path)


def test_a_missing_file_is_named_with_a_near_one(run_dir: Path) -> None:
    written(RECORDS, "own/callback.py")

    with pytest.raises(core.ConfigError, match=r"^callbacks_file=own/callbacks.py: there is no such file, wanted a "
                       r"Python file with callbacks, or None; did you mean own/callback.py\?$"):  # fmt: skip
        load_callbacks(Path("own/callbacks.py"))
    with pytest.raises(core.ConfigError, match=r"there is no such file, wanted a Python file with callbacks, or None$"):
        load_callbacks(Path("nowhere/callbacks.py"))
    with pytest.raises(core.ConfigError, match="^callbacks_file=own: it is a folder, wanted"):
        load_callbacks(Path("own"))


@pytest.mark.parametrize("path", ["absent.py", "unsaveable.py"])
def test_a_previous_run_is_not_touched_by_a_wrong_file(run_dir: Path, tiny_argv: list[str], path: str) -> None:
    written(RECORDS.replace('{"seen": 1}', '{"seen": open}'), "unsaveable.py")
    train.main([*tiny_argv, "--max_iters=1"])
    before = sorted(file.name for file in Path("out").iterdir())

    with pytest.raises(core.ConfigError, match=r"there is no such file|^Records.state_dict\(\) holds more than"):
        train.main([*tiny_argv, f"--callbacks_file={path}"])
    assert sorted(file.name for file in Path("out").iterdir()) == before


def wrong_objects() -> list[tuple[Any, str]]:
    return [
        (CallRecorder, r"^callbacks\[0\] is the class CallRecorder: wanted an instance of it, CallRecorder\(\)$"),
        ("mine.py", r"^callbacks\[0\] is a str without events: wanted a class with a method such as"),
    ]


@pytest.mark.parametrize(("callback", "message"), wrong_objects())
def test_an_object_from_python_without_events_is_refused(
    run_dir: Path, tiny_argv: list[str], callback: Any, message: str
) -> None:
    with pytest.raises(core.ConfigError, match=message):
        train.main(tiny_argv, [callback])
    assert not Path("out").exists()


def test_a_run_with_callbacks_logs_nothing_about_them(
    run_dir: Path, tiny_argv: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "coregpt"):
        load_callbacks(written(RECORDS))

    assert caplog.messages == []
