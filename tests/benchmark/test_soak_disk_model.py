"""A few trials on the model of a disk, the durable states of the model, and the detection of broken code."""

import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.soak import disk_model
from benchmark.soak.disk_model import Disk, trial
from core import files
from core.checkpoint.manager import CheckpointManager
from core.checkpoint.manifest import describe, name_of, sequence_of
from core.checkpoint.manifest import write as write_manifest

SEEDS = range(20)
flush, rotate = files._flush, CheckpointManager._rotate


@pytest.mark.parametrize("seed", SEEDS)
def test_a_healthy_checkpoint_always_exists(seed: int, tmp_path: Path) -> None:
    details = trial(seed, tmp_path)

    assert details["done"] > 0
    assert sum(details["events"].values()) > 0


def test_only_events_with_an_effect_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_model, "CALLS", 10**6)  # more calls than a save makes: planned faults hardly ever happen
    events = trial(0, tmp_path)["events"]

    assert events["save"] > 0 and events["fault"] == events["kill"] == 0


def test_a_full_campaign_with_too_few_events_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_model, "TRIALS", 2)
    monkeypatch.setattr(disk_model, "FLOOR", 4)
    records = [{"details": {"events": {"fault": 2, "kill": 2, "cut": 2}}}] * 2

    assert disk_model.summary(records) == "4 x cut, 4 x fault, 4 x kill"
    with pytest.raises(AssertionError, match="only 3 x kill, wanted 4"):
        disk_model.summary([records[0], {"details": {"events": {"fault": 2, "kill": 1, "cut": 2}}}])


def test_the_same_seed_gives_the_same_schedule(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()

    assert trial(1, folders[0]) == trial(1, folders[1])
    assert sorted(os.listdir(folders[0] / "out")) == sorted(os.listdir(folders[1] / "out"))


def states(folder: Path, act: Callable[[Disk], None]) -> set[tuple[tuple[str, bytes], ...]]:
    """Return the possible states of a folder after `act` and a power cut."""
    found_states = set()
    for seed in range(40):
        for path in folder.iterdir():
            path.unlink()
        disk = Disk(folder, random.Random(seed), links=True)
        act(disk)
        disk.power_cut()
        found_states.add(tuple((path.name, path.read_bytes()) for path in sorted(folder.iterdir())))
    return found_states


def write_and_rename(disk: Disk, with_file: bool, with_folder: bool) -> None:
    part, path = disk.folder / "a.part", disk.folder / "a"
    part.write_bytes(b"1234")
    if with_file:
        disk.fsync(disk.open(part, os.O_RDONLY))
    disk.replace(part, path)
    if with_folder:
        disk.fsync(disk.open(disk.folder, os.O_RDONLY))


def test_only_flushed_content_and_names_are_durable(tmp_path: Path) -> None:
    complete = (("a", b"1234"),)

    assert states(tmp_path, lambda disk: write_and_rename(disk, True, True)) == {complete}
    assert states(tmp_path, lambda disk: write_and_rename(disk, True, False)) == {(), (("a.part", b"1234"),), complete}
    broken = states(tmp_path, lambda disk: write_and_rename(disk, False, True))
    assert {(("a", b""),), complete} < broken and all(len(state) == 1 for state in broken)


# detection of broken code


def without_file_fsync(path: Path) -> None:
    if path.is_dir():
        flush(path)


def without_folder_fsync(path: Path) -> None:
    if not path.is_dir():
        flush(path)


def renamed_before_fsync(path: Path, write: Callable[[Path], None]) -> None:
    part = path.with_name(path.name + files.PARTIAL)
    write(part)
    files.os.replace(part, path)
    files._flush(path)


def manifest_first(
    manager: CheckpointManager, write: Callable[[Path], None], notes: Any, link: bool, suffix: str
) -> Path:
    taken = [sequence_of(name) or 0 for name in os.listdir(manager.folder)]
    sequence = 1 + max(taken, default=0)
    path = manager.folder / (name_of(sequence) + suffix)
    draft = manager.folder.parent / path.name
    write(draft)
    write_manifest(path.with_suffix(".json"), describe(draft, sequence, {**notes, "linked": False}))
    files.flush_folder(manager.folder)
    files.write_atomically(path, lambda part: part.write_bytes(draft.read_bytes()) and None)
    files.flush_folder(manager.folder)
    rotate(manager, sequence)
    return path


MUTATIONS: dict[str, tuple[str, Any, str]] = {  # title: the target, its replacement, and the expected message
    "a file's fsync is dropped": (
        "core.files._flush", without_file_fsync, r"\.json or its checkpoint is incomplete"
    ),
    "a folder's fsync is dropped": (
        "core.files._flush", without_folder_fsync, r"the newest checkpoint is \d+ .*, after \d+ was saved"
    ),
    "renamed before fsync": ("core.files.write_atomically", renamed_before_fsync, r"ckpt-\d+\.pt is incomplete"),
    "the manifest is written before the content": (
        "core.checkpoint.manager.CheckpointManager._save", manifest_first, r"\.json or its checkpoint is incomplete"
    ),
    "damaged checkpoints are counted": (
        "core.checkpoint.manager.CheckpointManager._damaged",
        property(lambda manager: set(), lambda manager, value: None),
        r"\] are kept, wanted \[",
    ),
    "a checkpoint is not verified": (
        "core.checkpoint.search.verify",
        lambda manifest, folder, _: folder / manifest["file"],
        r"the newest( healthy)? checkpoint, .*, is not a saved one",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTATIONS)
def test_broken_code_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    target, broken, message = MUTATIONS[name]
    monkeypatch.setattr(target, broken, raising=False)

    messages: list[str] = []
    for seed in SEEDS:  # these trials pass with correct code
        folder = tmp_path / str(seed)
        folder.mkdir()
        try:
            trial(seed, folder)
        except AssertionError as error:
            messages.append(str(error))
            if re.search(message, messages[-1]):
                return
    pytest.fail(f"not noticed as {message!r}, but: {messages}")
