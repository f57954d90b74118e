"""The wheel: what is in it, and that it works next to files that have the names of ours."""

import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from setup import FOLDERS, PROGRAMS, ROOT, moved, tree_files

MAX_BYTES = 5_000_000
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, f'build_{sys.argv[1]}')(sys.argv[2]))"
TINY = ["--block_size=8", "--n_layer=1", "--n_head=1", "--n_embd=8", "--max_iters=1", "--eval_interval=1"]
TINY += ["--eval_iters=1", "--batch_size=2", "--log_interval=1", "--warmup_iters=0"]


def build(checkout: Path, kind: str) -> Path:
    """Build a wheel or an sdist in `checkout`, and return its path."""
    made = subprocess.run(
        [sys.executable, "-c", BUILD, kind, "dist"], cwd=checkout, capture_output=True, text=True, check=True
    )
    return checkout / "dist" / made.stdout.splitlines()[-1]


def copied(target: Path) -> Path:
    """Copy what the build reads."""
    for folder in (*FOLDERS, "coregpt"):
        shutil.copytree(ROOT / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__", "*.bin", "*.pkl"))
    for name in (*PROGRAMS, "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target)
    return target


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(copied(tmp_path_factory.mktemp("checkout")), "wheel")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the wheel's content."""
    target = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(target)
    return target


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """Return a user's folder with files and packages that have the names of ours."""
    for name in ("model.py", "train.py", "core.py", "tools.py", "config/__init__.py", "data/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("MINE = 1\n")
    (tmp_path / "config/mybase.py").write_text("n_layer = 1\nn_embd = 8\n")
    imports = ["from config.mybase import *", "from config.quickstart import beta2", "from neighbour import seed"]
    (tmp_path / "mine.py").write_text("\n".join(imports))
    (tmp_path / "neighbour.py").write_text("seed = 1337\n")
    (tmp_path / "watch.py").write_text(WATCH)
    (tmp_path / "notes.txt").write_text("to be or not to be\n" * 50)
    return tmp_path


def run(
    installed: Path, code: str, folder: Path, *arguments: str, flags: tuple[str, ...] = ("-S",)
) -> subprocess.CompletedProcess[str]:
    """Run Python code in a folder that is first on its path, with the installed package and without the checkout.

    flags: with -P the folder is not on the path, as in a program that pip has installed
    """
    first = f"import sys; sys.path[1:1] = [{str(installed)!r}]; sys.path.append({sysconfig.get_path('purelib')!r})\n"
    return subprocess.run(
        [sys.executable, *flags, "-c", first + code, *arguments], cwd=folder, capture_output=True, text=True
    )


WATCH = """
import neighbour
from coregpt import Callback

class Watch(Callback):
    def on_train_end(self, trainer):
        print("watched with seed", neighbour.seed)
"""
COMMAND = "from coregpt.command_line import main; main()"


# imports


def test_imports_name_the_package() -> None:
    source = """import os
import core
import loss_modifiers as lm
from core.errors import (
    ConfigError,
)
from wiring import start
from corelib import x
if True:
    from data.meta import read_meta
    sys.path.insert(0, here)
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from . import y
"""
    lines = moved(source, "x.py").splitlines()

    assert lines[:4] == [
        "import os",
        "from coregpt._tree import core",
        "from coregpt._tree import loss_modifiers as lm",
        "from coregpt._tree.core.errors import (",
    ]
    assert lines[6:9] == ["from coregpt._tree.wiring import start", "from corelib import x", "if True:"]
    assert lines[9:] == [
        "    from coregpt._tree.data.meta import read_meta",
        "    sys.path.insert(0, here)",
        "",
        "from . import y",
    ]


@pytest.mark.parametrize("line", ["import core.errors", "import os, core"])
def test_an_import_that_would_need_another_name_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="^x.py:1: write `import core` on a line of its own"):
        moved(line, "x.py")


# what is in it


def test_a_wheel_holds_one_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()

    assert {name.split("/")[0] for name in names} == {"coregpt", "coregpt-0.1.0.dist-info"}
    assert {name.removeprefix("coregpt/_tree/") for name in names} >= {path.as_posix() for path in tree_files()}
    assert wheel.stat().st_size <= MAX_BYTES


def test_a_deleted_module_is_gone_from_the_next_wheel(tmp_path: Path) -> None:
    checkout = copied(tmp_path)
    build(checkout, "wheel")
    (checkout / "core" / "losses.py").unlink()
    (checkout / "coregpt" / "presets.py").unlink()

    with zipfile.ZipFile(build(checkout, "wheel")) as file:
        names = set(file.namelist())
    assert not names & {"coregpt/_tree/core/losses.py", "coregpt/presets.py"}
    assert {"coregpt/_tree/core/files.py", "coregpt/arguments.py"} <= names


def test_the_wheel_of_an_sdist_is_the_same(wheel: Path, tmp_path: Path) -> None:
    sdist = build(copied(tmp_path / "checkout"), "sdist")
    shutil.unpack_archive(sdist, tmp_path / "unpacked")
    (source,) = (tmp_path / "unpacked").iterdir()

    with zipfile.ZipFile(wheel) as ours, zipfile.ZipFile(build(source, "wheel")) as theirs:
        names = set(ours.namelist())
        assert set(theirs.namelist()) == names
        same = [name for name in names if ".dist-info" not in name]
        assert [name for name in same if ours.read(name) != theirs.read(name)] == []


# at work


def test_no_name_of_ours_becomes_importable(installed: Path, tmp_path: Path) -> None:
    code = """
import importlib.util, coregpt, coregpt._tree.train, coregpt._tree.sample, coregpt.command_line
names = 'core config data extras loss_modifiers tools wiring model train sample configurator'.split()
print([name for name in names if importlib.util.find_spec(name) or name in sys.modules])
"""
    done = run(installed, code, tmp_path)

    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_it_trains_and_samples_next_to_files_with_the_names_of_ours(installed: Path, crowded: Path) -> None:
    argv = ["train", "quickstart", "mine.py", "--dataset", "notes.txt", *TINY, "--out_dir", "out"]
    trained = run(installed, COMMAND, crowded, *argv, "--callbacks_file=watch.py", flags=("-S", "-P"))
    assert trained.returncode == 0, trained.stderr
    assert "watched with seed 1337\n" in trained.stdout
    assert "data: data/notes, made of notes.txt: 950 characters, 8 different ones\n" in trained.stderr
    sampled = run(installed, COMMAND, crowded, "sample", "--out_dir=out", "--num_samples=1", "--max_new_tokens=9")
    assert sampled.returncode == 0, sampled.stderr
    assert set(sampled.stdout.split("meta.pkl...\n")[1].split("---")[0]) <= set("to be or not to be\n")

    where = [f"--out_dir={crowded}/ours", f"--dataset={crowded}/data/notes"]
    here = [sys.executable, "train.py", "config/quickstart.py", *TINY, *where]
    ours = subprocess.run(here, cwd=ROOT, capture_output=True, text=True)
    assert losses(trained.stdout) == losses(ours.stdout) and len(losses(ours.stdout)) == 6


def losses(printed: str) -> list[str]:
    return re.findall(r"loss \d+\.\d+", printed)


def test_parts_can_be_pickled_and_used_by_other_processes(installed: Path, crowded: Path) -> None:
    code = """
import multiprocessing, pickle
from coregpt._tree.core import StepResult, ConfigError
from coregpt._tree.data.meta import read_meta
if __name__ == '__main__':
    for method in ('spawn', 'forkserver'):
        with multiprocessing.get_context(method).Pool(1) as pool:
            print(pool.apply(pickle.loads, [pickle.dumps(ConfigError('x'))]))
"""
    (crowded / "work.py").write_text(code)
    done = run(installed, "import runpy; runpy.run_path('work.py', run_name='__main__')", crowded)

    assert (done.stdout, done.stderr) == ("x\nx\n", "")


def test_help_and_completion_do_not_wait_for_torch(installed: Path, tmp_path: Path) -> None:
    code = "import atexit; atexit.register(lambda: print('torch' in sys.modules))\n" + COMMAND
    for argv in (["--help"], ["--version"], ["train", "--help"], ["sample", "-h"], ["presets"], ["prepare"]):
        done = run(installed, code, tmp_path, *argv)
        assert (done.stdout.splitlines()[-1], done.returncode, done.stderr) == ("False", 0, "")


def test_it_can_be_imported_where_a_signal_is_missing(installed: Path, tmp_path: Path) -> None:
    code = "import signal; del signal.SIGUSR1, signal.SIGHUP\nimport coregpt._tree.train; print('imported')"

    assert run(installed, code, tmp_path).stdout == "imported\n"
