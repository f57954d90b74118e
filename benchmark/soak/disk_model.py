"""
Saves on a disk that fails, is cut off, and forgets what it was not told to keep: a healthy checkpoint is always there.

The real CheckpointManager works in a real folder, while a model of a disk watches its calls and keeps what would be
there after a power cut, by the least that disks guarantee:

- a file's content is safe once that file was fsynced; before, it may be empty, cut short or noise
- names (made, renamed, linked, removed) are safe once their folder was fsynced; before, any first part of what was done
  to them, in order, may have reached the disk, as in a journal
"""

import errno
import functools
import hashlib
import io
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch

from benchmark.soak.campaign import Campaign
from core.checkpoint.format import load_checkpoint
from core.checkpoint.manager import CheckpointFile, CheckpointManager
from core.errors import CheckpointError

SEQUENCE = slice(5, 11)  # of a name like ckpt-000012.json
CALLS = 26  # about as many as one save makes
TRIALS = 1000
FLOOR = 2000  # so many faults, kills and cuts each must strike in a full campaign


class Killed(BaseException):
    """The process has ended; no handler of its own mends anything any more."""


class File:
    """What names are names of."""

    def __init__(self) -> None:
        self.seen = b""  # as the process that wrote it reads it
        self.safe: bytes | None = None  # on the disk for good


Names = dict[str, File]


class Disk:
    """Stands in for the module `os` in core, for one folder: does as it is told, and knows what is safe.

    links: it knows second names of files
    """

    def __init__(self, folder: Path, rng: random.Random, links: bool) -> None:
        self.folder = folder
        self.rng = rng
        self.links = links
        self.names: Names = {}
        self.safe_names: Names = {}
        self.pending: list[Callable[[Names], None]] = []  # done to the names since the folder was fsynced
        self.opened: list[str] = []
        self.quiet()

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    # what is to go wrong

    def quiet(self) -> None:
        """Let nothing go wrong from now on."""
        self.calls, self.dead, self.failed, self.unflushed = 0, False, False, False
        self.kill_at = self.fail_at = 0
        self.last_fail = 0
        self.error = errno.EIO

    def fail(self) -> None:
        """Let a call of the next save fail, sometimes several in a row or all that follow."""
        self.quiet()
        self.error = self.rng.choice([errno.ENOSPC, errno.EIO, errno.EROFS])
        self.fail_at = self.rng.randint(1, CALLS)
        self.last_fail = self.fail_at + self.rng.choice([0, 0, 1, 3, 1000])

    def kill(self) -> None:
        """Let the process end at a call of the next save."""
        self.quiet()
        self.kill_at = self.rng.randint(1, CALLS)

    def step(self, name: str, action: Callable[[], Any] = lambda: None) -> Any:
        """Do something under a name, unless this is the call at which it goes wrong."""
        self.calls += 1
        if self.dead:
            raise Killed
        if self.fail_at and self.fail_at <= self.calls <= self.last_fail:
            self.failed = True
            self.unflushed |= not name  # nobody is told
            raise OSError(self.error, os.strerror(self.error), name)
        self._see()
        is_last = self.calls == self.kill_at
        if is_last and self.rng.random() < 0.5:
            self._die(name)
        result = action()
        if is_last:
            self._die(name)
        return result

    def _die(self, name: str) -> None:
        """End the process; if nobody had made sure of the file yet, that may have been in the midst of writing it."""
        self.dead = True
        file, path = self.names.get(name), self.folder / name
        if file and file.safe is None and path.exists() and self.rng.random() < 0.5:
            os.truncate(path, self.rng.randint(0, path.stat().st_size))
        raise Killed

    # the calls that core makes

    def listdir(self, path: Path) -> list[str]:
        """Return the names in a folder."""
        names = sorted(os.listdir(path))  # in any order, but the same for the same seed
        self.rng.shuffle(names)
        return names

    def open(self, path: Path, flags: int) -> int:
        """Return a number that stands for a file or folder that is there."""
        name = self._name(path)
        self.step(name, lambda: os.stat(path))
        self.opened.append(name)
        return len(self.opened) - 1

    def close(self, descriptor: int) -> None:
        """Do nothing: nothing was opened."""

    def fsync(self, descriptor: int) -> None:
        """Make a file's content safe, or the names in the folder."""
        name = self.opened[descriptor]
        self.step(name, lambda: self._keep_content(name) if name else self._keep_names())

    def replace(self, source: Path, target: Path) -> None:
        """Rename a file, over another one if there is one."""
        old, new = self._name(source), self._name(target)

        def rename(names: Names) -> None:
            if old in names:
                names[new] = names.pop(old)

        self.step(old, lambda: self._change(lambda: os.replace(source, target), rename))

    rename = replace

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name."""
        old, new = self._name(source), self._name(target)

        def make(names: Names) -> None:
            names[new] = names[old]

        def refuse() -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM), new)

        self.step(new, lambda: self._change(lambda: os.link(source, target), make) if self.links else refuse())

    def unlink(self, path: Path) -> None:
        """Remove a name."""
        name = self._name(path)
        self.step(name, lambda: self._change(lambda: os.unlink(path), lambda names: names.pop(name, None)))

    # what is safe

    def power_cut(self) -> None:
        """Leave in the folder one of the states that the disk may be in when the power comes back."""
        self._see()
        names = dict(self.safe_names)
        for change in self.pending[: self.rng.randint(0, len(self.pending))]:
            change(names)
        for name in os.listdir(self.folder):
            os.unlink(self.folder / name)
        first: dict[File, str] = {}
        for name, file in names.items():
            if file in first:
                os.link(self.folder / first[file], self.folder / name)
            else:
                first[file] = name
                (self.folder / name).write_bytes(self._leftover(file) if file.safe is None else file.safe)
        self.names = names
        self.settle()

    @property
    def is_settled(self) -> bool:
        """Whether all that is in the folder is safe: a power cut takes nothing away."""
        self._see()
        return not self.pending and all(file.safe is not None for file in self.names.values())

    def settle(self) -> None:
        """Have all that is in the folder safe."""
        self._see()
        for name in list(self.names):
            if (self.folder / name).exists():
                self._keep_content(name)
            else:
                del self.names[name]
        self._keep_names()

    def _leftover(self, file: File) -> bytes:
        """Return what may be found of a content that was never fsynced."""
        noise = self.rng.randbytes(len(file.seen))
        return self.rng.choice([b"", file.seen[: self.rng.randint(0, len(file.seen))], noise, file.seen])

    def _name(self, path: Path) -> str:
        """Return a path's name in the folder; that of the folder is empty."""
        return "" if Path(path) == self.folder else Path(path).name

    def _see(self) -> None:
        """Take notice of files that were made, and of what is in those that are not safe."""
        for name in sorted(os.listdir(self.folder)):
            if name not in self.names:
                file = self.names[name] = File()
                self.pending.append(lambda names, name=name, file=file: names.update({name: file}))  # type: ignore[misc]
            if self.names[name].safe is None:
                self.names[name].seen = (self.folder / name).read_bytes()

    def _change(self, act: Callable[[], None], change: Callable[[Names], Any]) -> None:
        act()
        change(self.names)
        self.pending.append(change)

    def _keep_content(self, name: str) -> None:
        self.names[name].safe = (self.folder / name).read_bytes()

    def _keep_names(self) -> None:
        self.safe_names, self.pending = dict(self.names), []


class Attempt(NamedTuple):
    """A checkpoint that was handed over to be saved."""

    number: int
    content: bytes
    notes: dict[str, Any]
    half: int  # so much of the content is written first

    @property
    def healthy(self) -> bool:
        """Whether training was sound, as its manifest says."""
        return bool(self.notes["healthy"])


class Schedule:
    """Makes random things happen to one folder, and sees after each that nothing is lost."""

    def __init__(self, rng: random.Random, folder: Path) -> None:
        self.rng = rng
        self.folder = folder
        self.disk = Disk(folder, rng, links=rng.random() < 0.8)
        self.keep_last, self.keep_best = rng.randint(1, 3), rng.randint(0, 2)
        self.attempts: list[Attempt] = []
        self.done: set[int] = set()  # reported as saved
        self.unsure: set[int] = set()  # of these, those whose names the disk failed to make sure of
        self.known: set[int] = set()  # sequences that the manager has found damaged
        self.there: set[int] = set()  # reported as saved, and good the last time we looked
        self.odd: set[int] = set()  # not there, or not of the right size, when the last save began
        self.story: list[str] = []
        self.struck: Counter[str] = Counter()  # events that came to pass, by name
        self.manager = self._new_manager()

    def happen(self) -> None:
        """Let one thing happen, and check."""
        events = {
            self.save: 4,
            self.fault: 4,
            self.kill: 4,
            self.cut: 4,
            self.damage: 2,
            self.setback: 2,
            self.restart: 1,
        }
        event = self.rng.choices(list(events), weights=list(events.values()))[0]
        self.story.append(event.__name__)
        self.struck[event.__name__] += event()
        self.check()

    # events: each tells whether it came to pass

    def save(self) -> bool:
        """Save with nothing in the way: what is to be kept is kept, and nothing else."""
        self.disk.quiet()
        listed, seen = self._listed(), self._passed_over(healthy=True)
        self.odd = {number for number in listed if not self._has_size(number, listed[number])}
        path = self._save_each([self.rng.random() < 0.8])
        assert path is not None, "a save came to nothing for no reason"
        self._check_kept({**listed, int(path.name[SEQUENCE]): self.attempts[-1]}, seen)
        return True

    def fault(self) -> bool:
        """Save while a call fails."""
        self.disk.fail()
        self._save_some()
        return self.disk.failed

    def kill(self) -> bool:
        """Kill the process while it saves."""
        self.disk.kill()
        with suppress(Killed):
            self._save_some()
        struck = self.disk.dead
        self.check()
        self.restart()
        return struck

    def cut(self) -> bool:
        """Cut the power while the process saves, or afterwards."""
        if self.rng.random() < 0.8:
            self.disk.kill()
            with suppress(Killed):
                self._save_some()
        struck = not self.disk.is_settled
        self.disk.power_cut()
        self.there -= self.unsure
        self.done -= self.unsure
        self.check()
        self.restart()
        return struck

    def damage(self) -> bool:
        """Damage any file but those of the newest healthy checkpoint."""
        good = self._good()
        newest = max((number for number, attempt in good.items() if attempt.healthy), default=None)
        spared = [] if newest is None else [self.folder / f"ckpt-{newest:06d}{end}" for end in (".pt", ".json")]
        paths = [path for path in sorted(self.folder.iterdir()) if not any(path.samefile(other) for other in spared)]
        if paths:
            self._spoil(self.rng.choice(paths))
        return bool(paths)

    def setback(self) -> bool:
        """Damage even the newest healthy one, if there is another; a recovery finds out, and training goes on."""
        healthy = sorted(number for number, attempt in self._good().items() if attempt.healthy)
        if len(healthy) > 1:
            self._spoil(self._pt(healthy[-1]))
            found = self.manager.load_healthy()
            assert found is not None, "no healthy checkpoint for a recovery"
            self.known |= self._passed_over(healthy=True)
            self.save()
        return len(healthy) > 1

    def restart(self) -> bool:
        """Start again, as a program does: find the newest, and give it its second name."""
        self.manager = self._new_manager()
        found = None
        with self._watched(), suppress(CheckpointError):
            found = self.manager.load()
        assert found or not self.there, "nothing to start again from"
        if found is None or found.manifest is not None:
            self.known |= self._passed_over()
        if found is None:
            return True
        self.disk.quiet()
        if self.rng.random() < 0.2:
            self.disk.kill()
        with self._watched(), suppress(Killed):
            self.manager.relink(found)
        if self.disk.dead:
            self.check()
            self.restart()
        return True

    def _save_some(self) -> None:
        """Save once, or twice with the first one in the background."""
        self._save_each(self.rng.choice([[True], [True], [False], [False, True], [False, False]]))

    def _save_each(self, waits: list[bool]) -> Path | None:
        """Save new checkpoints, waiting for each or not; return the path of the last if that was reported as done.

        Nothing is drawn, and nobody looks, while a thread is at work: the same seed gives the same trial.
        """
        made = [(self._new_attempt(), self.rng.random() < 0.5, wait) for wait in waits]
        path = None
        with self._watched():
            for attempt, link, wait in made:
                with suppress(OSError):
                    path = self.manager.save(
                        functools.partial(self._write, attempt), attempt.notes, link=link, wait=wait
                    )
                    self._report(path)
            with suppress(OSError):
                path = self.manager.join() or path
                self._report(path)
        return path

    def _report(self, path: Path | None) -> None:
        """Note that a save was reported as done."""
        if path is not None:
            attempt = self._attempt_of(path.read_bytes())
            assert attempt, f"{path.name} was reported as saved, and is not what was to be saved"
            self.done.add(attempt.number)
            self.there.add(attempt.number)
            self.unsure = {*self.unsure, attempt.number} if self.disk.unflushed else set()

    def _write(self, attempt: Attempt, path: Path) -> None:
        path.write_bytes(attempt.content[: attempt.half])
        self.disk.step(path.name)
        path.write_bytes(attempt.content)

    def _new_attempt(self) -> Attempt:
        number = len(self.attempts) + 1
        file = io.BytesIO()
        torch.save({"model": {}, "model_args": {}, "run": "model", "iter_num": number}, file)
        val_loss = self.rng.choice([None, round(self.rng.uniform(1, 5), 1)])
        notes = {"iter_num": number, "val_loss": val_loss, "healthy": self.rng.random() < 0.6, "run": "model"}
        content = file.getvalue()
        self.attempts.append(Attempt(number, content, notes, self.rng.randint(0, len(content))))
        return self.attempts[-1]

    def _new_manager(self) -> CheckpointManager:
        self.known = set()
        return CheckpointManager(self.folder, keep_last=self.keep_last, keep_best=self.keep_best)

    def _passed_over(self, healthy: bool = False) -> set[int]:
        """Return the damaged ones that are looked at on the way to the newest good one, or the newest healthy one.

        A good copy under the name of ckpt.pt takes the place of a damaged one.
        """
        found, good = set(), self._good()
        for number, attempt in sorted(self._listed().items(), reverse=True):
            if healthy and not attempt.healthy:
                continue
            if number in good:
                break
            found.add(number)
            if self._is_linked(attempt):
                break
        return found

    def _spoil(self, path: Path) -> None:
        """Damage a file in place, put a damaged one in its place, or take it away."""
        self.disk.settle()
        content = path.read_bytes()
        kinds = ["cut", "noise", "gone", *(["flip"] if path.suffix != ".json" and content else [])]
        kind = self.rng.choice(kinds)
        self.story.append(f"{path.name} {kind}")
        if kind == "gone" or self.rng.random() < 0.3:
            path.unlink()
            del self.disk.names[path.name]
        if kind == "cut":
            path.write_bytes(content[: self.rng.randint(0, max(0, len(content) - 2))])
        if kind == "noise":
            path.write_bytes(self.rng.randbytes(len(content)))
        if kind == "flip":  # as long as before
            place = self.rng.randrange(len(content))
            path.write_bytes(
                content[:place] + bytes([content[place] ^ 1 << self.rng.randrange(8)]) + content[place + 1 :]
            )
        if path.exists():
            os.utime(path, ns=(0, len(self.story)))  # another time than before, however fast this goes
        self.disk.settle()
        self.there &= {attempt.number for attempt in self._good().values()}

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Let the disk stand in for the module `os` in core."""
        with ExitStack() as stack:
            for name in ("files", "checkpoint.manager", "checkpoint.search"):
                stack.enter_context(mock.patch(f"core.{name}.os", self.disk, create=True))
            yield

    # checks

    def check(self) -> None:
        """See that another process finds what was reported as saved, or newer, and what was healthy."""
        self._check_names()
        other = CheckpointManager(self.folder)
        with self._watched():
            if self.there:
                self._check_found(other.load(), self.there, "newest")
            if any(self.attempts[number - 1].healthy for number in self.done):
                healthy = {number for number in self.there if self.attempts[number - 1].healthy}
                self._check_found(other.load_healthy(), healthy, "newest healthy")
        self.there &= {attempt.number for attempt in self._good().values()}

    def _check_found(self, found: CheckpointFile | None, expected: set[int], what: str) -> None:
        assert found is not None, f"there is no {what} checkpoint"
        attempt = self._attempt_of(found.path.read_bytes())
        if found.manifest is None:  # a file without a manifest may have harmless damage, as its own checksums show
            attempt = self.attempts[load_checkpoint(found.path)["iter_num"] - 1]
        assert attempt, f"the {what} checkpoint, {found.path.name}, is none that was saved"
        assert attempt.healthy or what == "newest", f"the {what} checkpoint, {found.path.name}, was saved as unhealthy"
        missing = [number for number in expected if number > attempt.number]
        assert not missing, (
            f"the {what} checkpoint is {attempt.number} ({found.path.name}), after {max(missing)} was saved"
        )

    def _check_names(self) -> None:
        """See that what has its own name is whole, and that a manifest has its content, unless they were damaged."""
        spoilt = {word.split(" ")[0] for word in self.story if " " in word}
        for path in sorted(self.folder.glob("ckpt-*")):
            pair = {path.with_suffix(".json").name, path.with_suffix(".pt").name, "ckpt.pt"}
            if path.suffix == ".part" or spoilt & pair:
                continue
            if path.suffix == ".pt":
                assert self._attempt_of(path.read_bytes()), f"{path.name} is not whole"
            else:
                assert int(path.name[SEQUENCE]) in self._good(), f"{path.name} is not whole, or its content is not"

    def _check_kept(self, candidates: dict[int, Attempt], seen: set[int]) -> None:
        """See that of these, by sequence, what was promised has been kept, and nothing else.

        What is known as damaged does not count, nor what can be told to be by its size. Neither need those in `seen`,
        at which the manager may have looked.
        """
        there = {int(path.name[SEQUENCE]) for path in self.folder.glob("ckpt-*.json")}
        linked = {number for number in candidates if self._pt(number).exists() and self._is_same(self._pt(number))}
        right = [self._to_keep(candidates, known) for known in (self.known, self.known | seen)]
        fits = any(kept <= there <= kept | linked for kept in right)
        assert fits, f"{sorted(there)} are kept, {sorted(right[0])} should be"
        strays = {path.name for path in self.folder.glob("ckpt-*") if int(path.name[SEQUENCE]) not in there}
        assert not strays, f"{sorted(strays)} are left behind"

    def _to_keep(self, candidates: dict[int, Attempt], known: set[int]) -> set[int]:
        """Return which of the candidates, by sequence, are to be kept, if those that are known are damaged."""
        linked = {number for number, attempt in candidates.items() if self._is_linked(attempt)}
        trusted = {number: candidates[number] for number in candidates if number not in known | self.odd}
        ranked = sorted(
            (attempt.notes["val_loss"], number)
            for number, attempt in trusted.items()
            if attempt.notes["val_loss"] is not None
        )
        healthy = sorted(number for number, attempt in trusted.items() if attempt.healthy)
        best = [number for _, number in ranked[: self.keep_best]]
        return {*sorted(trusted)[-self.keep_last :], *best, *healthy[-1:], *linked}

    def _is_linked(self, attempt: Attempt) -> bool:
        """Tell whether ckpt.pt is a checkpoint or a copy of it, by what it holds."""
        linked = self.folder / "ckpt.pt"
        return linked.exists() and linked.read_bytes() == attempt.content

    def _is_same(self, path: Path) -> bool:
        linked = self.folder / "ckpt.pt"
        return linked.exists() and linked.samefile(path)

    # what is in the folder, told by its bytes

    def _attempt_of(self, content: bytes) -> Attempt | None:
        return next((attempt for attempt in self.attempts if attempt.content == content), None)

    def _listed(self) -> dict[int, Attempt]:
        """Return the checkpoints whose manifest is as it was written, by sequence."""
        found = {}
        for path in self.folder.glob("ckpt-*.json"):
            with suppress(ValueError, KeyError, IndexError, TypeError):
                manifest = json.loads(path.read_bytes())
                attempt = self.attempts[manifest["iter_num"] - 1]
                right = {**attempt.notes, "sha256": hashlib.sha256(attempt.content).hexdigest()}
                if all(manifest[key] == value for key, value in right.items()):
                    found[int(path.name[SEQUENCE])] = attempt
        return found

    def _good(self) -> dict[int, Attempt]:
        """Return the checkpoints whose manifest and content are as they were written, by sequence."""
        return {
            number: attempt
            for number, attempt in self._listed().items()
            if self._pt(number).is_file() and self._pt(number).read_bytes() == attempt.content
        }

    def _has_size(self, number: int, attempt: Attempt) -> bool:
        path = self._pt(number)
        return path.exists() and path.stat().st_size == len(attempt.content)

    def _pt(self, number: int) -> Path:
        return self.folder / f"ckpt-{number:06d}.pt"


def trial(seed: int, folder: Path) -> dict[str, Any]:
    """Let 10 to 30 random things happen to the checkpoints in a folder."""
    rng = random.Random(seed)
    (folder / "out").mkdir()
    schedule = Schedule(rng, folder / "out")
    events = rng.randint(10, 30)
    try:
        for _ in range(events):
            schedule.happen()
    except (AssertionError, CheckpointError) as error:
        raise AssertionError(f"{error} (after {', '.join(schedule.story)})") from error
    return {"events": dict(schedule.struck), "attempts": len(schedule.attempts), "done": len(schedule.done)}


def summary(records: list[dict[str, Any]]) -> str:
    """Return how much has struck in all. Raises AssertionError when that is too little in a full campaign."""
    totals: Counter[str] = Counter()
    for record in records:
        totals.update(record["details"]["events"])
    few = [f"{totals[name]} x {name}" for name in ("fault", "kill", "cut") if totals[name] < FLOOR]
    assert not few or len(records) < TRIALS, f"only {', '.join(few)} struck, wanted {FLOOR}"
    return ", ".join(f"{count} x {name}" for name, count in sorted(totals.items()))


CAMPAIGN = Campaign("disk_model", TRIALS, trial, summary)
