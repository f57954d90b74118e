"""
Campaign of saves on a disk that fails and loses power: a healthy checkpoint must always exist.

The real CheckpointManager works in a real folder. A model of a disk watches its calls, and computes what may be left
after a power cut, by the minimum that disks guarantee:

- the content of a file is durable once the file was fsynced; before, it may be empty, truncated or random
- changes of names (make, rename, link, remove) are durable once their folder was fsynced; before, the disk may have
  made any number of the changes, in order, as with a journal
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
CALLS = 26  # approximate number of calls of one save
TRIALS = 1000
FLOOR = 2000  # minimum number of faults, of kills and of power cuts in a full campaign


class Killed(BaseException):
    """The process was killed; a BaseException, so that no handler of the process catches it."""


class File:
    """The content of a file, which may have several names."""

    def __init__(self) -> None:
        self.content = b""  # as the process reads it
        self.durable: bytes | None = None  # as it is after a power cut; None if that is not determined


Names = dict[str, File]


class Disk:
    """Replaces the module `os` in core, for one folder. Makes all calls, and tracks what is durable.

    links: the file system has hard links
    """

    def __init__(self, folder: Path, rng: random.Random, links: bool) -> None:
        self.folder = folder
        self.rng = rng
        self.links = links
        self.names: Names = {}
        self.durable_names: Names = {}
        self.pending: list[Callable[[Names], None]] = []  # changes of names since the folder was fsynced
        self.opened: list[str] = []
        self.clear_faults()

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    # planned faults

    def clear_faults(self) -> None:
        """Make all further calls succeed."""
        self.calls = 0
        self.is_killed = self.has_failed = self.has_unreported_failure = False
        self.kill_at = self.fail_at = 0
        self.last_fail = 0
        self.error = errno.EIO

    def plan_failure(self) -> None:
        """Make a call of the next save fail, sometimes several calls in a row or all that follow."""
        self.clear_faults()
        self.error = self.rng.choice([errno.ENOSPC, errno.EIO, errno.EROFS])
        self.fail_at = self.rng.randint(1, CALLS)
        self.last_fail = self.fail_at + self.rng.choice([0, 0, 1, 3, 1000])

    def plan_kill(self) -> None:
        """Kill the process at a call of the next save."""
        self.clear_faults()
        self.kill_at = self.rng.randint(1, CALLS)

    def call(self, name: str, action: Callable[[], Any] = lambda: None) -> Any:
        """Do `action` on a name, unless a fault is planned for this call."""
        self.calls += 1
        if self.is_killed:
            raise Killed
        if self.fail_at and self.fail_at <= self.calls <= self.last_fail:
            self.has_failed = True
            self.has_unreported_failure |= not name  # a failed flush of the folder raises no error in core
            raise OSError(self.error, os.strerror(self.error), name)
        self._observe()
        is_last = self.calls == self.kill_at
        if is_last and self.rng.random() < 0.5:
            self._kill_now(name)
        result = action()
        if is_last:
            self._kill_now(name)
        return result

    def _kill_now(self, name: str) -> None:
        """Kill the process; a file that is not durable yet may be truncated, as if it was being written."""
        self.is_killed = True
        file, path = self.names.get(name), self.folder / name
        if file and file.durable is None and path.exists() and self.rng.random() < 0.5:
            os.truncate(path, self.rng.randint(0, path.stat().st_size))
        raise Killed

    # calls of core

    def listdir(self, path: Path) -> list[str]:
        """Return the names in a folder."""
        names = sorted(os.listdir(path))  # then in random order, the same for the same seed
        self.rng.shuffle(names)
        return names

    def open(self, path: Path, flags: int) -> int:
        """Return a number that stands for an existing file or folder."""
        name = self._name(path)
        self.call(name, lambda: os.stat(path))
        self.opened.append(name)
        return len(self.opened) - 1

    def close(self, descriptor: int) -> None:
        """Do nothing: nothing was opened."""

    def fsync(self, descriptor: int) -> None:
        """Make the content of a file durable, or the names in the folder."""
        name = self.opened[descriptor]
        self.call(name, lambda: self._flush_content(name) if name else self._flush_names())

    def replace(self, source: Path, target: Path) -> None:
        """Rename a file, and replace the target if it exists."""
        old, new = self._name(source), self._name(target)

        def rename(names: Names) -> None:
            if old in names:
                names[new] = names.pop(old)

        self.call(old, lambda: self._change_names(lambda: os.replace(source, target), rename))

    rename = replace

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name."""
        old, new = self._name(source), self._name(target)

        def make(names: Names) -> None:
            names[new] = names[old]

        def refuse() -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM), new)

        self.call(new, lambda: self._change_names(lambda: os.link(source, target), make) if self.links else refuse())

    def unlink(self, path: Path) -> None:
        """Remove a name."""
        name = self._name(path)
        self.call(name, lambda: self._change_names(lambda: os.unlink(path), lambda names: names.pop(name, None)))

    # durable state

    def power_cut(self) -> None:
        """Put the folder into one of the states that are possible after a power cut."""
        self._observe()
        names = dict(self.durable_names)
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
                (self.folder / name).write_bytes(
                    self._content_after_cut(file) if file.durable is None else file.durable
                )
        self.names = names
        self.make_durable()

    @property
    def is_durable(self) -> bool:
        """Whether everything in the folder is durable."""
        self._observe()
        return not self.pending and all(file.durable is not None for file in self.names.values())

    def make_durable(self) -> None:
        """Make everything in the folder durable."""
        self._observe()
        for name in list(self.names):
            if (self.folder / name).exists():
                self._flush_content(name)
            else:
                del self.names[name]
        self._flush_names()

    def _content_after_cut(self, file: File) -> bytes:
        """Return a possible content of a file after a power cut."""
        if file.durable is not None:
            return file.durable
        noise = self.rng.randbytes(len(file.content))
        return self.rng.choice([b"", file.content[: self.rng.randint(0, len(file.content))], noise, file.content])

    def _name(self, path: Path) -> str:
        """Return the name of a path in the folder; an empty string for the folder."""
        return "" if Path(path) == self.folder else Path(path).name

    def _observe(self) -> None:
        """Record new files, and the contents of files that are not durable."""
        for name in sorted(os.listdir(self.folder)):
            if name not in self.names:
                file = self.names[name] = File()
                self.pending.append(lambda names, name=name, file=file: names.update({name: file}))  # type: ignore[misc]
            if self.names[name].durable is None:
                self.names[name].content = (self.folder / name).read_bytes()

    def _change_names(self, act: Callable[[], None], change: Callable[[Names], Any]) -> None:
        act()
        change(self.names)
        self.pending.append(change)

    def _flush_content(self, name: str) -> None:
        self.names[name].durable = (self.folder / name).read_bytes()

    def _flush_names(self) -> None:
        self.durable_names, self.pending = dict(self.names), []


class Attempt(NamedTuple):
    """A checkpoint that was given to the manager to save."""

    number: int
    content: bytes
    notes: dict[str, Any]
    first_bytes: int  # written before the call at which the process may be killed

    @property
    def healthy(self) -> bool:
        """Whether its manifest says that training was stable."""
        return bool(self.notes["healthy"])


class Schedule:
    """Makes random events happen to one folder, and checks after each that nothing is lost.

    Checkpoints are identified by the number of their attempt, or by the sequence in their names, as the comments say.
    """

    def __init__(self, rng: random.Random, folder: Path) -> None:
        self.rng = rng
        self.folder = folder
        self.disk = Disk(folder, rng, links=rng.random() < 0.8)
        self.keep_last, self.keep_best = rng.randint(1, 3), rng.randint(0, 2)
        self.attempts: list[Attempt] = []
        self.reported: set[int] = set()  # attempts that the manager reported as saved
        self.uncertain: set[int] = set()  # reported attempts whose names the disk failed to flush
        self.present: set[int] = set()  # reported attempts that were intact at the last check
        self.known_damaged: set[int] = set()  # sequences that the manager has found damaged
        self.wrong_sizes: set[int] = set()  # sequences missing or of the wrong size when the last save began
        self.history: list[str] = []
        self.occurred: Counter[str] = Counter()  # events that had an effect, by name
        self.manager = self._new_manager()

    def happen(self) -> None:
        """Make one random event happen, and check."""
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
        self.history.append(event.__name__)
        self.occurred[event.__name__] += event()
        self.check()

    # events: each returns whether it had an effect

    def save(self) -> bool:
        """Save without faults: the wanted checkpoints are kept, and no others."""
        self.disk.clear_faults()
        listed, seen = self._with_manifest(), self._damaged_before_good(healthy=True)
        self.wrong_sizes = {number for number in listed if not self._has_size(number, listed[number])}
        path = self._save_each([self.rng.random() < 0.8])
        assert path is not None, "a save without faults failed"
        self._check_kept({**listed, int(path.name[SEQUENCE]): self.attempts[-1]}, seen)
        return True

    def fault(self) -> bool:
        """Save while a call fails."""
        self.disk.plan_failure()
        self._save_once_or_twice()
        return self.disk.has_failed

    def kill(self) -> bool:
        """Kill the process while it saves."""
        self.disk.plan_kill()
        with suppress(Killed):
            self._save_once_or_twice()
        is_killed = self.disk.is_killed
        self.check()
        self.restart()
        return is_killed

    def cut(self) -> bool:
        """Cut the power while the process saves, or afterwards."""
        if self.rng.random() < 0.8:
            self.disk.plan_kill()
            with suppress(Killed):
                self._save_once_or_twice()
        has_effect = not self.disk.is_durable
        self.disk.power_cut()
        self.present -= self.uncertain
        self.reported -= self.uncertain
        self.check()
        self.restart()
        return has_effect

    def damage(self) -> bool:
        """Damage any file except those of the newest healthy checkpoint."""
        newest = max((number for number, attempt in self._intact().items() if attempt.healthy), default=None)
        spared = [] if newest is None else [self.folder / f"ckpt-{newest:06d}{end}" for end in (".pt", ".json")]
        paths = [path for path in sorted(self.folder.iterdir()) if not any(path.samefile(other) for other in spared)]
        if paths:
            self._damage_file(self.rng.choice(paths))
        return bool(paths)

    def setback(self) -> bool:
        """Damage the newest healthy checkpoint, if there is another one; recover from that, and save."""
        healthy = sorted(number for number, attempt in self._intact().items() if attempt.healthy)
        if len(healthy) > 1:
            self._damage_file(self._pt(healthy[-1]))
            found = self.manager.load_healthy()
            assert found is not None, "no healthy checkpoint for a recovery"
            self.known_damaged |= self._damaged_before_good(healthy=True)
            self.save()
        return len(healthy) > 1

    def restart(self) -> bool:
        """Restart the program: load the newest checkpoint, and link ckpt.pt to it."""
        self.manager = self._new_manager()
        found = None
        with self._disk_in_use(), suppress(CheckpointError):
            found = self.manager.load()
        assert found or not self.present, "no checkpoint to restart from"
        if found is None or found.manifest is not None:
            self.known_damaged |= self._damaged_before_good()
        if found is None:
            return True
        self.disk.clear_faults()
        if self.rng.random() < 0.2:
            self.disk.plan_kill()
        with self._disk_in_use(), suppress(Killed):
            self.manager.relink(found)
        if self.disk.is_killed:
            self.check()
            self.restart()
        return True

    def _save_once_or_twice(self) -> None:
        """Save once, or twice with the first save in the background."""
        self._save_each(self.rng.choice([[True], [True], [False], [False, True], [False, False]]))

    def _save_each(self, waits: list[bool]) -> Path | None:
        """Save a new checkpoint for each of `waits`, and return the path of the last if it was reported as saved.

        waits: whether to wait for the save, or to save in the background

        No random numbers are drawn and nothing is checked during a background save: a seed always gives the same trial.
        """
        saves = [(self._new_attempt(), self.rng.random() < 0.5, wait) for wait in waits]
        path = None
        with self._disk_in_use():
            for attempt, link, wait in saves:
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
        """Record that the manager reported a checkpoint as saved."""
        if path is not None:
            attempt = self._attempt_of(path.read_bytes())
            assert attempt, f"{path.name} was reported as saved, but has another content"
            self.reported.add(attempt.number)
            self.present.add(attempt.number)
            self.uncertain = {*self.uncertain, attempt.number} if self.disk.has_unreported_failure else set()

    def _write(self, attempt: Attempt, path: Path) -> None:
        path.write_bytes(attempt.content[: attempt.first_bytes])
        self.disk.call(path.name)
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
        self.known_damaged = set()
        return CheckpointManager(self.folder, keep_last=self.keep_last, keep_best=self.keep_best)

    def _damaged_before_good(self, healthy: bool = False) -> set[int]:
        """Return the sequences of damaged checkpoints that the search for the newest good (healthy) one comes across.

        The search ends at a damaged checkpoint of which ckpt.pt is an intact copy.
        """
        found, good = set(), self._intact()
        for number, attempt in sorted(self._with_manifest().items(), reverse=True):
            if healthy and not attempt.healthy:
                continue
            if number in good:
                break
            found.add(number)
            if self._is_linked(attempt):
                break
        return found

    def _damage_file(self, path: Path) -> None:
        """Damage a file in place, replace it by a damaged one, or remove it."""
        self.disk.make_durable()
        content = path.read_bytes()
        kinds = ["cut", "noise", "gone", *(["flip"] if path.suffix != ".json" and content else [])]
        kind = self.rng.choice(kinds)
        self.history.append(f"{path.name} {kind}")
        if kind == "gone" or self.rng.random() < 0.3:
            path.unlink()
            del self.disk.names[path.name]
        if kind == "cut":
            path.write_bytes(content[: self.rng.randint(0, max(0, len(content) - 2))])
        if kind == "noise":
            path.write_bytes(self.rng.randbytes(len(content)))
        if kind == "flip":
            place = self.rng.randrange(len(content))
            path.write_bytes(
                content[:place] + bytes([content[place] ^ 1 << self.rng.randrange(8)]) + content[place + 1 :]
            )
        if path.exists():
            os.utime(path, ns=(0, len(self.history)))  # a changed time, however coarse the clock
        self.disk.make_durable()
        self.present &= {attempt.number for attempt in self._intact().values()}

    @contextmanager
    def _disk_in_use(self) -> Iterator[None]:
        """Replace the module `os` in core by the disk."""
        with ExitStack() as stack:
            for name in ("files", "checkpoint.manager", "checkpoint.search"):
                stack.enter_context(mock.patch(f"core.{name}.os", self.disk, create=True))
            yield

    # checks

    def check(self) -> None:
        """Check that another process finds a checkpoint at least as new as the reported ones, and a healthy one."""
        self._check_names()
        other = CheckpointManager(self.folder)
        with self._disk_in_use():
            if self.present:
                self._check_found(other.load(), self.present, "newest")
            if any(self.attempts[number - 1].healthy for number in self.reported):
                healthy = {number for number in self.present if self.attempts[number - 1].healthy}
                self._check_found(other.load_healthy(), healthy, "newest healthy")
        self.present &= {attempt.number for attempt in self._intact().values()}

    def _check_found(self, found: CheckpointFile | None, expected: set[int], what: str) -> None:
        assert found is not None, f"there is no {what} checkpoint"
        attempt = self._attempt_of(found.path.read_bytes())
        if found.manifest is None:  # the file may be damaged in bytes that hold no values
            attempt = self.attempts[load_checkpoint(found.path)["iter_num"] - 1]
        assert attempt, f"the {what} checkpoint, {found.path.name}, is not a saved one"
        assert attempt.healthy or what == "newest", f"the {what} checkpoint, {found.path.name}, was saved as unhealthy"
        missing = [number for number in expected if number > attempt.number]
        assert not missing, (
            f"the {what} checkpoint is {attempt.number} ({found.path.name}), after {max(missing)} was saved"
        )

    def _check_names(self) -> None:
        """Check that all checkpoints and manifests under their final names are intact, unless they were damaged."""
        damaged = {event.split(" ")[0] for event in self.history if " " in event}
        for path in sorted(self.folder.glob("ckpt-*")):
            pair = {path.with_suffix(".json").name, path.with_suffix(".pt").name, "ckpt.pt"}
            if path.suffix == ".part" or damaged & pair:
                continue
            if path.suffix == ".pt":
                assert self._attempt_of(path.read_bytes()), f"{path.name} is incomplete"
            else:
                assert int(path.name[SEQUENCE]) in self._intact(), f"{path.name} or its checkpoint is incomplete"

    def _check_kept(self, candidates: dict[int, Attempt], seen: set[int]) -> None:
        """Check that the manager kept the wanted ones of the candidates, by sequence, and no others.

        Checkpoints that are known to be damaged do not count, nor those of the wrong size; nor, perhaps, those in
        `seen`, which the manager may have found damaged.
        """
        kept = {int(path.name[SEQUENCE]) for path in self.folder.glob("ckpt-*.json")}
        linked = {number for number in candidates if self._pt(number).exists() and self._is_same_file(self._pt(number))}
        wanted = [self._to_keep(candidates, damaged) for damaged in (self.known_damaged, self.known_damaged | seen)]
        fits = any(numbers <= kept <= numbers | linked for numbers in wanted)
        assert fits, f"{sorted(kept)} are kept, wanted {sorted(wanted[0])}"
        strays = {path.name for path in self.folder.glob("ckpt-*") if int(path.name[SEQUENCE]) not in kept}
        assert not strays, f"{sorted(strays)} are left behind"

    def _to_keep(self, candidates: dict[int, Attempt], damaged: set[int]) -> set[int]:
        """Return the candidates to keep, by sequence. damaged: sequences known to be damaged"""
        linked = {number for number, attempt in candidates.items() if self._is_linked(attempt)}
        trusted = {number: candidates[number] for number in candidates if number not in damaged | self.wrong_sizes}
        ranked = sorted(
            (attempt.notes["val_loss"], number)
            for number, attempt in trusted.items()
            if attempt.notes["val_loss"] is not None
        )
        healthy = sorted(number for number, attempt in trusted.items() if attempt.healthy)
        best = [number for _, number in ranked[: self.keep_best]]
        return {*sorted(trusted)[-self.keep_last :], *best, *healthy[-1:], *linked}

    def _is_linked(self, attempt: Attempt) -> bool:
        """Return whether ckpt.pt has the content of a checkpoint."""
        linked = self.folder / "ckpt.pt"
        return linked.exists() and linked.read_bytes() == attempt.content

    def _is_same_file(self, path: Path) -> bool:
        linked = self.folder / "ckpt.pt"
        return linked.exists() and linked.samefile(path)

    # the folder, by the bytes of its files

    def _attempt_of(self, content: bytes) -> Attempt | None:
        return next((attempt for attempt in self.attempts if attempt.content == content), None)

    def _with_manifest(self) -> dict[int, Attempt]:
        """Return the checkpoints with an intact manifest, by sequence."""
        found = {}
        for path in self.folder.glob("ckpt-*.json"):
            with suppress(ValueError, KeyError, IndexError, TypeError):
                manifest = json.loads(path.read_bytes())
                attempt = self.attempts[manifest["iter_num"] - 1]
                right = {**attempt.notes, "sha256": hashlib.sha256(attempt.content).hexdigest()}
                if all(manifest[key] == value for key, value in right.items()):
                    found[int(path.name[SEQUENCE])] = attempt
        return found

    def _intact(self) -> dict[int, Attempt]:
        """Return the checkpoints with an intact manifest and an intact file, by sequence."""
        return {
            number: attempt
            for number, attempt in self._with_manifest().items()
            if self._pt(number).is_file() and self._pt(number).read_bytes() == attempt.content
        }

    def _has_size(self, number: int, attempt: Attempt) -> bool:
        path = self._pt(number)
        return path.exists() and path.stat().st_size == len(attempt.content)

    def _pt(self, number: int) -> Path:
        return self.folder / f"ckpt-{number:06d}.pt"


def trial(seed: int, folder: Path) -> dict[str, Any]:
    """Make 10 to 30 random events happen to the checkpoints in a folder."""
    rng = random.Random(seed)
    (folder / "out").mkdir()
    schedule = Schedule(rng, folder / "out")
    events = rng.randint(10, 30)
    try:
        for _ in range(events):
            schedule.happen()
    except (AssertionError, CheckpointError) as error:
        raise AssertionError(f"{error} (after {', '.join(schedule.history)})") from error
    return {"events": dict(schedule.occurred), "attempts": len(schedule.attempts), "done": len(schedule.reported)}


def summary(records: list[dict[str, Any]]) -> str:
    """Return the number of events by name. Raises AssertionError if a full campaign has too few."""
    totals: Counter[str] = Counter()
    for record in records:
        totals.update(record["details"]["events"])
    few = [f"{totals[name]} x {name}" for name in ("fault", "kill", "cut") if totals[name] < FLOOR]
    assert not few or len(records) < TRIALS, f"only {', '.join(few)}, wanted {FLOOR}"
    return ", ".join(f"{count} x {name}" for name, count in sorted(totals.items()))


CAMPAIGN = Campaign("disk_model", TRIALS, trial, summary)
