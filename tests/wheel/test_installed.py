"""The wheel, installed into an environment of its own: every test uses that environment's programs, and no checkout.

Each test works in an empty folder. `make test-wheel` runs these tests; pip takes the dependencies from its index.
"""

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from setup import NAMES, ROOT

MAX_BYTES = 5_000_000
MAX_START_S = 1.0  # of `coregpt --help`; 0.05 s on an idle machine
SHORT = ["--max_iters=20", "--eval_interval=10", "--eval_iters=2", "--log_interval=1"]  # a few seconds
TINY = ["--n_layer=1", "--n_head=1", "--n_embd=8", "--block_size=8", "--batch_size=2", "--max_iters=2"]
TINY += ["--eval_interval=1", "--eval_iters=1", "--warmup_iters=0", "--log_interval=1"]
NOT_BUILT = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "out-*", "*.bin", "*.pkl")
SDIST = "from setuptools import build_meta; print(build_meta.build_sdist('dist'))"
TIMES = {"time_ms", "mfu", "elapsed_s", "tokens_per_s"}


def checked(command: list[str], folder: Path, **options: Any) -> str:
    """Run a command that must succeed. Return what it printed."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Environment:
    """A virtual environment with the wheel and its dependencies."""

    def __init__(self, folder: Path) -> None:
        checked([sys.executable, "-m", "venv", str(folder)], ROOT)
        self.bin = folder / "bin"
        self.variables = {"PATH": f"{self.bin}:/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "1"}

    def install(self, *arguments: str) -> None:
        """Call `pip install`."""
        pip = [str(self.bin / "python"), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt")]
        checked([*pip, *arguments], self.bin)

    def run(self, *command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a folder."""
        environment = {**self.variables, **variables}
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)

    def coregpt(self, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """Run the command `coregpt`."""
        return self.run("coregpt", *arguments, folder=folder)

    def printed(self, *arguments: str, folder: Path) -> str:
        """Return what a run of `coregpt` that must succeed prints on stdout."""
        return checked(["coregpt", *arguments], folder, env=self.variables)

    def refusal(self, *arguments: str, folder: Path) -> str:
        """Return the one message of a run of `coregpt` that must be refused."""
        done = self.coregpt(*arguments, folder=folder)
        assert done.returncode == 2 and "Traceback" not in done.stderr and done.stderr.count("error: ") == 1, done
        return done.stderr.partition("error: ")[2].rstrip("\n")

    @contextmanager
    def training(self, *arguments: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
        """Start `coregpt train`, and wait for its fifth update. At the end it is killed if it still runs."""
        command, pipes = ["coregpt", "train", *arguments], dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        with subprocess.Popen(command, cwd=folder, env=self.variables, text=True, **pipes) as process:
            try:
                while not process.stdout.readline().startswith("iter 5:"):
                    assert process.poll() is None, process.stderr.read()
                yield process
            finally:
                process.kill()


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the checkout, so that a build leaves nothing in it."""
    return shutil.copytree(ROOT, tmp_path_factory.mktemp("source") / "checkout", ignore=NOT_BUILT)


def wheel_of(source: Path, folder: Path) -> Path:
    """Return the wheel that `pip wheel` makes of a checkout or an sdist."""
    checked([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), str(source)], folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheel_of(checkout, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("environment"))
    environment.install(str(wheel))
    return environment


@pytest.fixture(scope="session")
def quick_start(installed: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which the quick start has run, shortened."""
    folder = tmp_path_factory.mktemp("quick_start")
    done = installed.coregpt("train", "quickstart", *SHORT, folder=folder)
    assert done.returncode == 0, done.stderr
    (folder / "stderr.txt").write_text(done.stderr)
    return folder


@pytest.fixture
def data(quick_start: Path) -> str:
    """Return the option that names the data set of the quick start."""
    return f"--dataset={quick_start}/data/python_stdlib"


def results(run: Path) -> list[dict[str, Any]]:
    """Return the losses and all else that a run has logged, without times."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    events = [line for line in lines if line["event"] in ("step", "eval")]
    return [{key: value for key, value in event.items() if key not in TIMES} for event in events]


def run_hash(installed: Environment, run: Path) -> str:
    return installed.printed("run_hash", str(run), folder=run)


# what is installed


def test_the_wheel_of_an_sdist_is_the_same(checkout: Path, wheel: Path, tmp_path: Path) -> None:
    name = checked([sys.executable, "-c", SDIST], checkout).splitlines()[-1]
    with zipfile.ZipFile(wheel) as ours, zipfile.ZipFile(wheel_of(checkout / "dist" / name, tmp_path)) as theirs:
        contents = [{name: file.read(name) for name in file.namelist()} for file in (ours, theirs)]

    assert contents[0] == contents[1]
    assert wheel.stat().st_size <= MAX_BYTES


def test_only_one_package_and_its_command_are_installed(installed: Environment, tmp_path: Path) -> None:
    code = "from importlib.metadata import files; print(*files('coregpt'), sep='\\n')"
    names = checked([str(installed.bin / "python"), "-c", code], tmp_path, env=installed.variables).splitlines()

    places = {name if name.startswith("..") else name.split("/")[0] for name in names}
    assert places == {"coregpt", "coregpt-0.1.0.dist-info", "../../../bin/coregpt"}


def test_no_folder_or_program_of_the_checkout_is_importable(installed: Environment, tmp_path: Path) -> None:
    code = "import importlib.util, sys; print([name for name in sys.argv[1:] if importlib.util.find_spec(name)])"
    command = ["python", "-c", code, *NAMES, "coregpt"]

    assert installed.run(*command, folder=tmp_path).stdout == "['coregpt']\n"


# the command


def test_it_prints_its_version_and_presets(installed: Environment, tmp_path: Path) -> None:
    assert installed.printed("--version", folder=tmp_path) == "coregpt 0.1.0\n"
    presets = installed.printed("presets", folder=tmp_path).splitlines()
    assert {"quickstart", "train_gpt2"} <= {line.split()[0] for line in presets if line}
    assert os.listdir(tmp_path) == []


def test_help_comes_at_once_and_without_torch(installed: Environment, tmp_path: Path) -> None:
    seconds = []
    for _ in range(5):
        started = time.monotonic()
        installed.printed("--help", folder=tmp_path)
        seconds.append(time.monotonic() - started)
    assert statistics.median(seconds) <= MAX_START_S

    for argv in (["--help"], ["train", "--help"], ["presets"]):
        done = installed.run("coregpt", *argv, folder=tmp_path, PYTHONPROFILEIMPORTTIME="1")
        modules = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
        assert "coregpt.command_line" in modules and "torch" not in modules


def test_completion_is_made_by_shtab_or_says_that_it_is_missing(installed: Environment, tmp_path: Path) -> None:
    empty, packages = tmp_path / "empty", tmp_path / "packages"
    empty.mkdir()
    message = installed.refusal("completion", "bash", folder=empty)
    assert message == "completion needs shtab: pip install shtab"

    installed.install("--target", str(packages), "shtab")
    variables = {"PYTHONPATH": str(packages), "PYTHONPROFILEIMPORTTIME": "1"}
    done = installed.run("coregpt", "completion", "bash", folder=empty, **variables)
    assert not re.search(r"\| +torch$", done.stderr, re.MULTILINE)
    (empty / "completion").write_text(done.stdout)
    words = "COMP_WORDS=(coregpt train --learn); COMP_CWORD=2; _coregpt; echo ${COMPREPLY[@]}"
    completed = installed.run("bash", "-c", f". ./completion && complete -p coregpt && {words}", folder=empty)
    assert "-F _coregpt coregpt" in completed.stdout and "--learning_rate" in completed.stdout


@pytest.mark.parametrize(
    "door",
    [
        ["python", "-m", "coregpt"],
        ["torchrun", "--standalone", "--nproc_per_node=1", "-m", "coregpt"],
        ["python", "train.py"],
    ],
)
def test_every_door_computes_the_same(
    installed: Environment, quick_start: Path, data: str, tmp_path: Path, door: list[str]
) -> None:
    is_checkout = door[-1] == "train.py"
    what = ["config/quickstart.py"] if is_checkout else ["train", "quickstart"]
    out = tmp_path / "out"
    done = installed.run(*door, *what, *SHORT, data, f"--out_dir={out}", folder=ROOT if is_checkout else tmp_path)
    assert done.returncode == 0, done.stderr

    ours = results(quick_start / "out-quickstart")
    assert len([line for line in ours if line["event"] == "step"]) == 21
    assert results(out) == ours
    assert run_hash(installed, out) == run_hash(installed, quick_start / "out-quickstart")


def test_the_printed_command_samples(installed: Environment, quick_start: Path) -> None:
    command = (quick_start / "stderr.txt").read_text().splitlines()[-1].removeprefix("to sample: ")
    assert command == "coregpt sample --out_dir=out-quickstart --device=cpu"
    flags = "--num_samples=1 --max_new_tokens=20 --start='def '"
    done = installed.run("sh", "-c", f"{command} {flags}", folder=quick_start)

    assert len(done.stdout.partition("\ndef ")[2].removesuffix("\n---------------\n")) == 20, done


def test_the_printed_command_goes_on_with_an_interrupted_run(
    installed: Environment, quick_start: Path, data: str, tmp_path: Path
) -> None:
    with installed.training("quickstart", *SHORT, data, "--out_dir=a run", folder=tmp_path) as process:
        process.send_signal(signal.SIGINT)
        printed = process.communicate(timeout=60)[1]
    assert process.returncode == 130

    command = printed.splitlines()[-1].partition("; to go on: ")[2]
    assert command == "coregpt train --init_from=resume --out_dir='a run'"
    done = installed.run("sh", "-c", command, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert run_hash(installed, tmp_path / "a run") == run_hash(installed, quick_start / "out-quickstart")


# in a notebook

KERNEL = """
import json, sys, threading
from jupyter_client.manager import start_new_kernel

manager, client = start_new_kernel()
printed = []
def keep(message):
    printed.append(message["content"].get("text", ""))
    if "iter 5:" in printed[-1] and len(sys.argv) > 2:
        manager.interrupt_kernel()
try:
    for cell in sys.argv[1:]:
        reply = client.execute_interactive(cell, timeout=300, output_hook=keep)["content"]
        print(json.dumps([reply["status"], "".join(printed)]))
        printed.clear()
finally:
    client.stop_channels()
    manager.shutdown_kernel(now=True)
"""


@pytest.fixture(scope="session")
def notebook(installed: Environment) -> Environment:
    """Return the environment with a Jupyter kernel in it."""
    installed.install("ipykernel", "jupyter_client")
    return installed


def cells(notebook: Environment, folder: Path, *code: str) -> list[list[str]]:
    """Return status and output of each cell that one kernel runs."""
    done = notebook.run("python", "-c", KERNEL, *code, folder=folder)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_notebook_computes_the_same(notebook: Environment, quick_start: Path, data: str, tmp_path: Path) -> None:
    argv = ["quickstart", *SHORT, data, "--out_dir=out"]
    ((status, printed),) = cells(notebook, tmp_path, f"import coregpt; coregpt.train({argv}).best_val_loss")

    assert status == "ok" and "iter 20:" in printed
    assert results(tmp_path / "out") == results(quick_start / "out-quickstart")
    assert run_hash(notebook, tmp_path / "out") == run_hash(notebook, quick_start / "out-quickstart")


def test_an_interrupt_leaves_the_kernel_alive_and_the_run_saved(
    notebook: Environment, quick_start: Path, data: str, tmp_path: Path
) -> None:
    argv = ["quickstart", *SHORT, data, "--out_dir=out"]
    train = f"import coregpt; result = coregpt.train({argv}); print(result.stopped)"
    again = "result = coregpt.train(['--init_from=resume', '--out_dir=out']); print('end', result.stopped)"
    first, second = cells(notebook, tmp_path, train, again)

    assert first[0] == second[0] == "ok" and "stopped by SIGINT at iteration " in first[1]
    assert "end None\n" in second[1]
    assert run_hash(notebook, tmp_path / "out") == run_hash(notebook, quick_start / "out-quickstart")


# a user's own text


def test_a_text_file_is_a_data_set(installed: Environment, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("to be or not to be\n" * 50)
    installed.printed("train", "quickstart", "--dataset=notes.txt", "--out_dir", "out", *TINY, folder=tmp_path)
    printed = installed.printed("sample", "--out_dir=out", "--num_samples=1", "--max_new_tokens=30", folder=tmp_path)

    text = printed.partition("meta.pkl...\n")[2].removesuffix("---------------\n")
    assert len(text) > 30 and set(text) <= set("to be or not to be\n")
    assert sorted(os.listdir(tmp_path)) == ["data", "notes.txt", "out"]


def test_a_prepared_text_is_a_data_set(installed: Environment, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("to be or not to be\n" * 50)
    installed.printed("prepare", "text", "notes.txt", "--name", "x", "--tokenizer", "char", folder=tmp_path)
    installed.printed("train", "quickstart", "--dataset=x", "--out_dir=out", *TINY, folder=tmp_path)

    assert len([line for line in results(tmp_path / "out") if line["event"] == "step"]) == 3


# mistakes


def test_a_text_that_is_not_utf_8_is_one_message(installed: Environment, tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("ein schöner Tag\n".encode("latin-1") * 50)
    message = installed.refusal("train", "quickstart", "--dataset=latin.txt", folder=tmp_path)

    assert message == "latin.txt is not UTF-8 text (at byte 7): convert it to UTF-8 first"
    assert os.listdir(tmp_path) == ["latin.txt"]


def test_a_misspelt_preset_is_one_message(installed: Environment, tmp_path: Path) -> None:
    message = installed.refusal("train", "quickstrat", folder=tmp_path)

    assert message == (
        "quickstrat: no such preset or file, did you mean quickstart? (coregpt presets lists the presets)"
    )


def test_a_second_run_in_the_same_folder_is_one_message(installed: Environment, data: str, tmp_path: Path) -> None:
    arguments = ["quickstart", *SHORT, data, "--max_iters=2000", "--out_dir=out"]
    with installed.training(*arguments, folder=tmp_path) as process:
        message = installed.refusal("train", *arguments, folder=tmp_path)

    assert message.startswith(f"out_dir='out' is in use by process {process.pid} on ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_one_message(installed: Environment, data: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    no_data = installed.refusal("train", "quickstart", folder=tmp_path)
    no_out_dir = installed.refusal("train", "quickstart", data, folder=tmp_path)
    tmp_path.chmod(0o755)

    assert "cannot write the data set to data/python_stdlib: Permission denied; " in no_data
    assert no_out_dir.endswith("out_dir='out-quickstart' cannot be written to: Permission denied; choose another")
