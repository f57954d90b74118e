"""Provenance: plain values, the right git revision, and only differences that matter."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch

import core.checkpoint.provenance
from core.checkpoint.provenance import describe, differences, revision, version

CPU = torch.device("cpu")
NEEDS_GIT = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    command = ["git", *identity, *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init")
    (folder / "train.py").write_text("pass\n")
    git(folder, "add", "train.py")
    git(folder, "commit", "-m", "first")
    return folder


def test_describe_returns_plain_values_that_survive_json() -> None:
    description = describe(CPU, 2)

    assert json.loads(json.dumps(description)) == description
    # `torch.__version__` is of a subclass of str
    assert {type(value) for value in description.values()} <= {str, int, type(None)}
    assert list(description) == ["git", "python", "torch", "device", "threads", "world_size", "platform"]
    assert (description["torch"], description["threads"], description["world_size"]) == (torch.__version__, 1, 2)


def test_the_version_is_the_checkouts_or_the_installed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "7.8"\n')
    assert version(tmp_path) == "7.8"
    assert f'version = "{version()}"' in (Path(__file__).parents[3] / "pyproject.toml").read_text()
    monkeypatch.setattr(core.checkpoint.provenance, "DISTRIBUTION", "pytest")
    assert version(tmp_path / "installed") == pytest.__version__
    monkeypatch.setattr(core.checkpoint.provenance, "DISTRIBUTION", "no-such-distribution")
    assert version(tmp_path / "installed") is None


def test_a_cpu_is_named_by_the_instructions_torch_uses() -> None:
    assert describe(CPU, 1)["device"] == f"cpu {torch.backends.cpu.get_cpu_capability()}"
    assert describe(torch.device("mps"), 1)["device"] == "mps"


def test_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU number {device.index}")

    assert describe(torch.device("cuda", 3), 1)["device"] == "cuda GPU number 3"


@NEEDS_GIT
def test_the_revision_is_gits_and_marks_changed_files(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "--short", "HEAD")
    git(checkout, "tag", "-a", "v1", "-m", "a tag that must not replace the revision")
    (checkout / "out").mkdir()
    (checkout / "out" / "new").touch()

    assert revision(checkout) == head
    (checkout / "train.py").write_text("changed\n")
    assert revision(checkout) == f"{head}-dirty"


@NEEDS_GIT
def test_the_revision_is_of_this_checkout_only(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of a checkout around it, and not of the one in the environment variables of a git hook."""
    (checkout / "inside").mkdir()
    assert revision(checkout / "inside") is None

    head = git(checkout, "rev-parse", "--short", "HEAD")
    other = checkout.parent / "other"
    other.mkdir()
    git(other, "init")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert revision(checkout) == head
    assert revision(other) is None  # nothing committed


def test_without_git_there_is_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert revision(tmp_path) is None
    assert describe(CPU, 1)["git"] is None


@pytest.mark.skipif(os.name != "posix", reason="a program made of a shell script")
def test_a_slow_git_gives_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "git"
    program.write_text("#!/bin/sh\nexec /bin/sleep 20\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    began = time.monotonic()
    assert revision(tmp_path, patience_s=0.1) is None
    assert time.monotonic() - began < 10


SAVED = {"git": "abc", "python": "3.10", "torch": "2.12.0", "device": "cpu", "threads": 1, "world_size": 1}
SAVED |= {"platform": "Linux x86_64", "data": "old", "iter_num": 10, "file": "ckpt-000001.pt"}


def test_differences_come_in_a_fixed_order() -> None:
    now = {
        "platform": "Darwin arm64",
        "threads": 2,
        "device": "cuda H200",
        "torch": "2.13.0",
    }

    assert differences(SAVED, now) == (
        "torch 2.12.0 -> 2.13.0, device cpu -> cuda H200, threads 1 -> 2, platform Linux x86_64 -> Darwin arm64"
    )


def test_values_that_cannot_change_a_result_are_no_difference() -> None:
    assert differences(SAVED, SAVED | {"git": "def", "python": "3.13", "iter_num": 11}) == ""
    assert differences(describe(CPU, 1), describe(CPU, 1)) == ""


def test_missing_values_are_no_difference() -> None:
    assert differences({}, describe(CPU, 1)) == ""
    assert differences(SAVED | {"threads": 4}, {"threads": 2}) == "threads 4 -> 2"
