"""
Campaign of damaged checkpoints: damage is noticed, an older checkpoint is loaded, and the run ends as without damage.

One run is killed in the middle. Every trial copies its folder and damages the newest checkpoint, or the two newest, in
one of many ways. Which checkpoints are intact is decided by comparing bytes, not by the code under test.
"""

import functools
import hashlib
import io
import json
import logging
import os
import pickle
import random
import shutil
import signal
import stat
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmark.soak.campaign import (
    OUT,
    Campaign,
    StartRecorder,
    expect_resume,
    in_child,
    stderr_tail,
    tiny_argv,
    train,
    undisturbed_hash,
    write_tiny_data,
)
from core.callback import Callback
from core.checkpoint.manager import CheckpointFile, CheckpointManager
from tools.run_hash import run_hash, value_hash

ARGV = tiny_argv(save_interval=2, keep_last=3)
STOPS = (8, 10)  # ckpt.pt is linked to the newest checkpoint at 8, after an evaluation; to the second newest at 10
FOREIGN_AT = 2  # minimum iteration of another run's checkpoint
MARK = "code-was-run"  # file that hostile checkpoints try to make


class Stopped(NamedTuple):
    """The folder of a run that was killed right after a save.

    files:   contents by name, without ckpt.pt
    newest:  number of the newest checkpoint
    linked:  number of the checkpoint that ckpt.pt is linked to
    foreign: content of a checkpoint of another run
    """

    files: dict[str, bytes]
    newest: int
    linked: int
    foreign: bytes

    def numbers_by_checksum(self) -> dict[str, int]:
        """Return the numbers of the checkpoints by the checksums of their files."""
        return {_sha256(self.files[_pt(number)]): number for number in self.numbers()}

    def numbers(self) -> list[int]:
        """Return the numbers of the checkpoints, oldest first."""
        return [number for number in range(1, self.newest + 1) if _pt(number) in self.files]

    def write(self, out: Path, links: bool) -> None:
        """Write the folder to `out`. links: ckpt.pt is a hard link, as `cp -a` makes it; else a copy"""
        out.mkdir()
        for name, content in self.files.items():
            (out / name).write_bytes(content)
        if links:
            os.link(out / _pt(self.linked), out / "ckpt.pt")
        else:
            (out / "ckpt.pt").write_bytes(self.files[_pt(self.linked)])

    def is_intact(self, out: Path, number: int) -> bool:
        """Return whether a checkpoint and its manifest are regular files with unchanged content."""
        names = (_pt(number), _json(number))
        return all(_is_plain(out / name) and (out / name).read_bytes() == self.files.get(name) for name in names)


class Victim(NamedTuple):
    """A checkpoint to damage."""

    rng: random.Random
    out: Path  # the run folder
    number: int
    other: int  # an older checkpoint's number
    stopped: Stopped

    @property
    def pt(self) -> Path:
        """Path of the checkpoint file."""
        return self.out / _pt(self.number)

    @property
    def json(self) -> Path:
        """Path of the manifest."""
        return self.out / _json(self.number)


# damage


def flipped(victim: Victim) -> None:
    """Flip some bits of the checkpoint file."""
    _flip_bits(victim.rng, victim.pt)


def manifest_flipped(victim: Victim) -> None:
    """Flip some bits of the manifest."""
    _flip_bits(victim.rng, victim.json)


def manifest_says_otherwise(victim: Victim) -> None:
    """Flip bits of the manifest so that it is still valid JSON, with other values."""
    content = victim.json.read_bytes()
    while True:
        _flip_bits(victim.rng, victim.json)
        with suppress(ValueError):
            if json.loads(victim.json.read_bytes()) != json.loads(content):
                return
        _overwrite(victim.json, content)


def cut_short(victim: Victim) -> None:
    """Truncate the checkpoint file."""
    os.truncate(victim.pt, victim.rng.choice([0, victim.rng.randrange(victim.pt.stat().st_size)]))


def manifest_cut_short(victim: Victim) -> None:
    """Truncate the manifest by more than its last newline."""
    os.truncate(victim.json, victim.rng.choice([0, victim.rng.randrange(victim.json.stat().st_size - 1)]))


def lengthened(victim: Victim) -> None:
    """Append bytes to the checkpoint file."""
    with open(victim.pt, "ab") as file:
        file.write(victim.rng.randbytes(victim.rng.randint(1, 5000)))


def block_lost(victim: Victim) -> None:
    """Replace a block of the checkpoint file by zeros, as if the disk had lost the block."""
    size = victim.pt.stat().st_size
    content = bytearray(victim.pt.read_bytes())
    start = victim.rng.randrange(size // 512) * 512
    content[start : start + 512] = bytes(len(content[start : start + 512]))
    if bytes(content) == victim.pt.read_bytes():  # it was zeros before
        content[start] = 1
    _overwrite(victim.pt, bytes(content))


def swapped(victim: Victim) -> None:
    """Swap the checkpoint file with that of an older checkpoint."""
    _swap(victim.pt, victim.out / _pt(victim.other))


def manifests_swapped(victim: Victim) -> None:
    """Swap the manifest with that of an older checkpoint."""
    _swap(victim.json, victim.out / _json(victim.other))


def manifest_of_another(victim: Victim) -> None:
    """Replace the manifest by a copy of an older checkpoint's manifest."""
    shutil.copyfile(victim.out / _json(victim.other), victim.json)


def older_in_place(victim: Victim) -> None:
    """Overwrite the checkpoint file with the content of an older one."""
    _overwrite(victim.pt, victim.stopped.files[_pt(victim.other)])


def manifest_lost(victim: Victim) -> None:
    """Remove the manifest."""
    victim.json.unlink()


def content_lost(victim: Victim) -> None:
    """Remove the checkpoint file."""
    victim.pt.unlink()


def folder_instead(victim: Victim) -> None:
    """Replace the checkpoint file by a folder, which is empty or holds the file."""
    content = victim.pt.read_bytes()
    victim.pt.unlink()
    victim.pt.mkdir()
    if victim.rng.random() < 0.5:
        (victim.pt / victim.pt.name).write_bytes(content)


def manifest_a_folder(victim: Victim) -> None:
    """Replace the manifest by a folder."""
    victim.json.unlink()
    victim.json.mkdir()


def symlink_instead(victim: Victim) -> None:
    """Replace the checkpoint file by a symbolic link: to the file moved elsewhere, to an older one, or to nothing."""
    outside = victim.out.parent / "moved.pt"
    os.replace(victim.pt, outside)
    victim.pt.symlink_to(victim.rng.choice([outside, victim.out / _pt(victim.other), victim.out / "nothing.pt"]))


def manifest_a_symlink(victim: Victim) -> None:
    """Replace the manifest by a symbolic link to the manifest moved elsewhere."""
    outside = victim.out.parent / "moved.json"
    os.replace(victim.json, outside)
    victim.json.symlink_to(outside)


def noise(victim: Victim) -> None:
    """Replace the checkpoint file by a new file of random bytes of the same size."""
    _replace_file(victim.pt, victim.rng.randbytes(victim.pt.stat().st_size))


def noise_in_place(victim: Victim) -> None:
    """Overwrite the checkpoint file with random bytes."""
    _overwrite(victim.pt, victim.rng.randbytes(victim.pt.stat().st_size))


def manifest_noise(victim: Victim) -> None:
    """Overwrite the manifest with random bytes."""
    _overwrite(victim.json, victim.rng.randbytes(victim.json.stat().st_size))


def hostile(victim: Victim) -> None:
    """Replace the checkpoint file by a new file that runs code when it is unpickled."""
    _replace_file(victim.pt, _hostile(victim))


def hostile_in_place(victim: Victim) -> None:
    """Overwrite the checkpoint file with a pickle that runs code when it is unpickled."""
    _overwrite(victim.pt, _hostile(victim))


def manifest_points_outside(victim: Victim) -> None:
    """Make the manifest name a file outside of the folder, with the checksum of that file."""
    outside = victim.out.parent / "x.pt"
    outside.write_bytes(victim.stopped.foreign)
    name = victim.rng.choice(["../x.pt", str(outside), "/etc/passwd", f"../{OUT}/{victim.pt.name}"])
    path = victim.out / name
    content = path.read_bytes() if path.is_file() else b""
    manifest = {**json.loads(victim.json.read_bytes()), "file": name, "bytes": len(content), "sha256": _sha256(content)}
    _overwrite(victim.json, json.dumps(manifest, indent=1).encode())


def overwritten_by_another(victim: Victim) -> None:
    """Overwrite ckpt.pt with another run's checkpoint, as nanoGPT does. It must be loaded: it is not damaged."""
    _overwrite(victim.out / "ckpt.pt", victim.stopped.foreign)


SWAPS: list[Callable[[Victim], None]] = [swapped, manifests_swapped]
KINDS: list[Callable[[Victim], None]] = [
    flipped, manifest_flipped, manifest_says_otherwise, cut_short, manifest_cut_short, lengthened, block_lost,
    *SWAPS, manifest_of_another, older_in_place, manifest_lost, content_lost, folder_instead, manifest_a_folder,
    symlink_instead, manifest_a_symlink, noise, noise_in_place, manifest_noise, hostile, hostile_in_place,
    manifest_points_outside, overwritten_by_another,
]  # fmt: skip


# one trial


def trial(seed: int, folder: Path) -> dict[str, Any]:
    """Damage the newest checkpoint of a stopped run, sometimes the second newest, too; resume the run and compare."""
    rng = random.Random(seed)
    stopped = stopped_run(rng.choice(STOPS))
    write_tiny_data(folder)
    links = rng.random() < 0.75
    stopped.write(folder / OUT, links)
    kinds = damage(rng, KINDS[seed % len(KINDS)], folder / OUT, stopped)
    is_foreign = kinds[0] == overwritten_by_another.__name__
    used = check_loading(folder / OUT, stopped, is_foreign)
    before = _contents(folder)
    iter_num = torch.load(folder / OUT / used, weights_only=True)["iter_num"]  # intact, as `check_loading` has checked
    with expect_resume(folder, iter_num):
        status = in_child(lambda: train([*ARGV, "--init_from=auto"], [StartRecorder()]), folder)
    assert status == 0, f"{kinds}: the run ended with {status}: {stderr_tail(folder)}"
    assert run_hash(folder / OUT) == undisturbed_hash(ARGV), f"{kinds}: the run ended in another state, from {used}"
    after = _contents(folder)
    assert MARK not in after, f"{kinds}: code in a checkpoint was run"
    for name in ("x.pt", "moved.pt", "moved.json"):
        assert after.get(name) == before.get(name), f"{kinds}: {name}, outside of the run folder, was changed"
    moved = folder / OUT / "ckpt.pt.foreign"
    assert not is_foreign or moved.read_bytes() == stopped.foreign, "another program's checkpoint was lost"
    return {"kinds": kinds, "links": links, "newest": stopped.newest, "used": used, "went_on_from": iter_num}


def damage(rng: random.Random, kind: Callable[[Victim], None], out: Path, stopped: Stopped) -> list[str]:
    """Damage the newest checkpoint in a run folder, sometimes the second newest, too. Return the kinds of damage."""
    *_, third, second, newest = stopped.numbers()
    if kind is overwritten_by_another or rng.random() < 0.75:
        kind(Victim(rng, out, newest, rng.choice([second, third]), stopped))
        return [kind.__name__]
    other = rng.choice([kind for kind in KINDS if kind not in (*SWAPS, overwritten_by_another)])
    kind(Victim(rng, out, newest, second, stopped))
    with suppress(OSError):  # the first damage may have removed the file
        other(Victim(rng, out, second, third, stopped))
    return [kind.__name__, other.__name__]


def check_loading(out: Path, stopped: Stopped, is_foreign: bool) -> str:
    """Check that loading notices the damage, finds an intact checkpoint, and changes no file. Return the file's name.

    The loaded checkpoint is at least as new as the newest intact one. It may be newer: ckpt.pt may be a hard link to,
    or a copy of, a checkpoint file whose manifest is damaged.
    """
    before = _contents(out.parent)
    with _logged() as records:
        found = CheckpointManager(out).load()
    intact = [number for number in stopped.numbers() if stopped.is_intact(out, number)]
    if is_foreign:
        assert found == (out / "ckpt.pt", None), f"{found.path.name} was loaded, wanted another program's ckpt.pt"
        warned = any(record.levelno >= logging.WARNING for record in records)
        assert not warned, f"a warning about damage: {_messages(records)}"
    else:
        assert intact and intact[-1] != stopped.newest, "nothing was damaged, or everything"
        assert records, f"not noticed: {found.path.name} was loaded without a message"
        _check_found(found, out, stopped, intact)
        with _logged():
            healthy = CheckpointManager(out).load_healthy()
            preferred = CheckpointManager(out).load(prefer_linked=True)
        assert healthy and healthy.manifest, "no healthy checkpoint was found"
        _check_found(healthy, out, stopped, intact)
        _check_found(preferred, out, stopped, intact[:1])
    assert _contents(out.parent) == before, "loading changed files in the folder"
    return found.path.name


def _check_found(found: CheckpointFile, out: Path, stopped: Stopped, intact: list[int]) -> None:
    """Check that a checkpoint is equal to a saved one, and at least as new as the newest intact one."""
    number = stopped.numbers_by_checksum().get(_sha256(found.path.read_bytes()))
    if number is None and found.manifest is None:  # damage in bytes without a checksum leaves the tensors intact
        number = _number_by_values(found.path, stopped)
    assert number, f"{found.path.name} was loaded, which is damaged"
    assert number >= intact[-1], f"{found.path.name} (number {number}) was loaded, but {_pt(intact[-1])} is intact"
    if found.manifest is not None:
        right = json.loads(stopped.files[_json(number)])
        names = (_pt(number), "ckpt.pt")
        assert found.path.name in names, f"{found.path.name} was loaded, which holds checkpoint {number}"
        wrong = [key for key, value in found.manifest.items() if right.get(key) != value]
        assert not wrong, f"the manifest of {found.path.name} has other values than saved: {wrong}"


# a run that was stopped


@functools.cache
def stopped_run(iter_num: int) -> Stopped:
    """Return the folder of a run that was killed right after the checkpoint of iteration `iter_num`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tiny_data(folder)
        status = in_child(lambda: train(ARGV, [_KillAfterSave(iter_num)]), folder)
        assert status == -signal.SIGKILL, f"the run was not killed, but ended with {status}: {stderr_tail(folder)}"
        out = folder / OUT
        files = {path.name: path.read_bytes() for path in sorted(out.iterdir())}
        linked = next(path for path in out.glob("ckpt-*.pt") if path.samefile(out / "ckpt.pt"))
        manifests = [json.loads(path.read_bytes()) for path in sorted(out.glob("ckpt-*.json"))]
        start = next(manifest for manifest in manifests if manifest["iter_num"] >= FOREIGN_AT)
        foreign = torch.load(out / start["file"], weights_only=True)
    del files["ckpt.pt"]
    buffer = io.BytesIO()
    torch.save({**foreign, "run": "another"}, buffer)
    return Stopped(files, manifests[-1]["sequence"], int(linked.stem.split("-")[1]), buffer.getvalue())


class _KillAfterSave(Callback):
    def __init__(self, iter_num: int) -> None:
        self.iter_num = iter_num

    def on_checkpoint(self, trainer: Any, path: Path) -> None:
        if trainer.iter_num == self.iter_num:
            os.kill(os.getpid(), signal.SIGKILL)


# files


def _pt(number: int) -> str:
    return f"ckpt-{number:06d}.pt"


def _json(number: int) -> str:
    return f"ckpt-{number:06d}.json"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _flip_bits(rng: random.Random, path: Path) -> None:
    """Flip 1 to 8 different bits of a file in place."""
    content = bytearray(path.read_bytes())
    for bit in rng.sample(range(8 * len(content)), rng.randint(1, min(8, 8 * len(content)))):
        content[bit // 8] ^= 1 << bit % 8
    _overwrite(path, bytes(content))


def _overwrite(path: Path, content: bytes) -> None:
    """Overwrite an existing file in place; hard links to it see the new content."""
    with open(path, "r+b") as file:
        file.truncate(0)
        file.write(content)


def _replace_file(path: Path, content: bytes) -> None:
    """Replace a file by a new one; hard links to the old file keep the old content."""
    temporary = path.with_name("temporary")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def _swap(one: Path, other: Path) -> None:
    temporary = one.with_name("temporary")
    os.replace(one, temporary)
    os.replace(other, one)
    os.replace(temporary, other)


class _Hostile:
    """Makes a file when it is unpickled by a reader that trusts pickles."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def _hostile(victim: Victim) -> bytes:
    """Return a checkpoint, or a pickle without zip file, that makes the file MARK when it is unpickled."""
    checkpoint = {"model": {"a": _Hostile(victim.out.parent / MARK)}, "model_args": {}, "iter_num": 1}
    if victim.rng.random() < 0.5:
        return pickle.dumps(checkpoint, protocol=2)
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    return buffer.getvalue()


def _number_by_values(path: Path, stopped: Stopped) -> int | None:
    """Return the number of the saved checkpoint with the same values as a file; None if there is none."""

    def values(file: Any) -> str:
        return value_hash(torch.load(file, weights_only=True))

    own = values(path)
    return next((number for number in stopped.numbers() if values(io.BytesIO(stopped.files[_pt(number)])) == own), None)


def _contents(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Return inode, mode, time of the last write, and checksum of everything in a folder, by name."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[str(path.relative_to(folder))] = (status.st_ino, status.st_mode, status.st_mtime_ns, _sha256(content))
    return found


@contextmanager
def _logged() -> Iterator[list[logging.LogRecord]]:
    """Collect what is logged in this context."""
    records: list[logging.LogRecord] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    log, collector = logging.getLogger("coregpt"), Collector()
    level, propagate = log.level, log.propagate
    log.addHandler(collector)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about pickles that it refuses
            yield records
    finally:
        log.removeHandler(collector)
        log.setLevel(level)
        log.propagate = propagate


def _messages(records: list[logging.LogRecord]) -> str:
    return "; ".join(record.getMessage() for record in records)


def summary(records: list[dict[str, Any]]) -> str:
    """Return the number of kinds of damage, and which checkpoints were used instead."""
    kinds = {kind for record in records for kind in record["details"]["kinds"]}
    twice = sum(len(record["details"]["kinds"]) > 1 for record in records)
    linked = sum(record["details"]["used"] == "ckpt.pt" for record in records)
    return f"{len(kinds)} kinds, {twice} x the two newest; ckpt.pt was used {linked} x, an older number otherwise"


CAMPAIGN = Campaign("damages", 500, trial, summary)
