"""Keeps a run's checkpoints: numbered, verified, rotated, and found again after a crash or damage."""

import logging
import os
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import suppress
from pathlib import Path

from core import files
from core.checkpoint.manifest import (
    Manifest,
    UnreadableError,
    describe,
    name_of,
    new_folder,
    plain,
    require_present,
    sequence_of,
)
from core.checkpoint.manifest import write as write_manifest
from core.checkpoint.other_formats import kind_of_folder
from core.checkpoint.retention import to_keep
from core.checkpoint.search import LINKED, CheckpointFile, CheckpointSearch, Digests
from core.commands import command
from core.errors import CheckpointError, WarnOnce

log = logging.getLogger("coregpt")
CONVERTIBLE = re.compile(r"ckpt_.+_\d+\.pt")  # checkpoints of the train_run and core lines
__all__ = ["CheckpointManager", "CheckpointFile"]


class CheckpointManager:
    """Owns the checkpoints of one run folder, whatever their format: the caller of `save` hands in what writes.

    A checkpoint `ckpt-000007.pt`, or a folder `checkpoint-500` of iteration 500, never changes, and counts as soon as
    its manifest `ckpt-000007.json` exists. Their order is that of the manifests' numbers. nanoGPT's `ckpt.pt` is a
    second name of one of the files.

    keep_last: number of newest checkpoints to keep
    keep_best: number of checkpoints with the lowest validation loss to keep in addition
    """

    def __init__(self, out_dir: str | Path, *, keep_last: int = 2, keep_best: int = 1) -> None:
        self.out_dir = out_dir  # as the user wrote it, for messages
        self.folder = Path(out_dir)
        self.path = self.folder / LINKED
        self.keep_last = keep_last
        self.keep_best = keep_best
        self._has_saved = False
        self._last = 0  # the highest number given; the folder may be removed during the run
        self._digests: Digests = {}  # of ckpt.pt, so that it is read once
        self._damaged: set[int] = set()  # numbers that do not count in the decision what to keep
        self._warn = WarnOnce()
        self._in_flight: Future[Path] | None = None
        self._thread: ThreadPoolExecutor | None = None

    # saving

    def save(
        self,
        write: Callable[[Path], None],
        notes: Manifest,
        *,
        link: bool = True,
        wait: bool = True,
        suffix: str = ".pt",
    ) -> Path | None:
        """Keep what `write(path)` makes, a file or a folder, as the newest checkpoint, and return its path.

        notes:  iter_num, val_loss (None if not measured on it), healthy, and further fields of the manifest
        link:   make `ckpt.pt` a second name of it, if it is a file
        wait:   False leaves the work to a thread and returns None; what `write` reads must not change until `join`
        suffix: "" for a folder

        At most one save runs in the background: this waits for it. Raises OSError and whatever `write` raises; earlier
        checkpoints are then unchanged.
        """
        notes = plain(notes)
        try:
            self.join()
        except Exception as error:  # of the save before; this one goes on
            log.warning(f"{self.out_dir}: the previous checkpoint could not be saved ({files.reason(error)})")
        if wait:
            return self._save(write, notes, link, suffix)
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._in_flight = self._thread.submit(self._save, write, notes, link, suffix)
        return None

    def join(self) -> Path | None:
        """Wait for a save in the background and return its path; None if there is none. Raises what it raised, once."""
        self._wait()
        in_flight, self._in_flight = self._in_flight, None
        return None if in_flight is None else in_flight.result()

    def relink(self, found: CheckpointFile) -> None:
        """Make `ckpt.pt` a second name of this checkpoint if its process was killed before it did so."""
        if not found.manifest or not found.manifest.get("linked") or found.path == self.path:
            return
        if CheckpointSearch(self.folder, self._digests).linked_digest() != found.manifest["sha256"]:
            try:
                self._link(found.path, found.manifest)
            except OSError as error:  # a resume is possible on a full disk as well
                self._report(f"{self.path.name} cannot be made {found.path.name} ({error.strerror or error})")

    def _wait(self) -> None:
        if self._in_flight is not None:
            wait_for([self._in_flight])

    def _save(self, write: Callable[[Path], None], notes: Manifest, link: bool, suffix: str) -> Path:
        files.make_folder(self.folder)  # it may have been removed
        before = CheckpointSearch(self.folder, self._digests)
        if self._has_saved and not before.names:
            self._report(
                "the folder was removed, renamed or unmounted, with the checkpoints of this run: it is made again"
            )
        sequence = self._last = 1 + max(self._last, *before.names, 0)
        manifest_path = self.folder / f"{name_of(sequence)}.json"
        path = manifest_path.with_suffix(suffix) if suffix else new_folder(self.folder, notes["iter_num"])
        try:
            files.write_atomically(path, write)
            files.flush_folder(self.folder)
            links = {"linked": link and path.is_file(), "beside": before.linked_digest()}
            manifest = describe(path, sequence, {**notes, **links})
            write_manifest(manifest_path, manifest)
        except BaseException:
            if not os.path.lexists(manifest_path):  # the checkpoint will never count, and the disk may be full
                with suppress(OSError):
                    files.remove(path)
            raise
        files.flush_folder(self.folder)  # from here on the checkpoint counts
        self._has_saved = True
        try:
            if manifest["linked"]:
                self._link(path, manifest)
        finally:  # also if linking keeps failing, else the disk fills up
            self._rotate(sequence)
        return path

    def _link(self, path: Path, manifest: Manifest) -> None:
        """Make `ckpt.pt` a second name of a checkpoint; a file of another program there is renamed, not lost."""
        if os.path.lexists(self.path) and not CheckpointSearch(self.folder, self._digests).linked_numbers():
            moved = files.move_away(self.path, ".foreign")
            log.info(f"{self.path} was not written by this program, or is damaged: it is now {moved.name}")
        files.link(path, self.path)
        self._digests = {files.stamp(self.path): manifest["sha256"]}
        files.flush_folder(self.folder)

    def _rotate(self, newest: int) -> None:
        """Remove checkpoints that are superseded or damaged, and temporary files of a process that was killed."""
        search = CheckpointSearch(self.folder, self._digests)
        self._damaged.discard(newest)  # an earlier checkpoint of this number, since removed
        if not search.manifests[newest]["healthy"]:  # verify the one to roll back to before others are removed
            next(search.numbered(healthy=True), None)
            self._damaged |= search.damaged()
        good = [manifest for manifest in search.manifests.values() if self._is_good(manifest)]
        linked = search.linked_numbers()
        kept = to_keep(good, last=self.keep_last, best=self.keep_best, linked=linked[-1] if linked else None)
        kept |= {newest, *search.unsure}
        self._remove([self.path.name + files.PARTIAL, *search.loose])
        for number, names in search.names.items():
            if number in kept:
                names = [name for name in names if name.endswith(files.PARTIAL)]
            # the manifest first: without it the content does not count
            self._remove(sorted(names, key=lambda name: not name.endswith(".json")))

    def _is_good(self, manifest: Manifest) -> bool:
        """Return whether a checkpoint is there, as far as that shows without reading its content."""
        if manifest["sequence"] in self._damaged:
            return False
        try:
            require_present(manifest, self.folder)
        except CheckpointError:
            return False
        except OSError:  # the disk may succeed another time
            return True
        return True

    def _remove(self, names: list[str]) -> None:
        for name in names:
            try:
                files.remove(self.folder / name)
            except OSError as error:
                self._report(f"{name} cannot be removed ({error.strerror or error})")
                return

    # loading

    def load(self, prefer_linked: bool = False) -> CheckpointFile:
        """Return the newest good checkpoint; damaged ones are reported and skipped.

        prefer_linked: the one that is `ckpt.pt`, if it is good: nanoGPT reads that

        Raises CheckpointError if none is good, and FutureFormatError if a newer version of this program wrote here.
        """
        self._wait()
        search = CheckpointSearch(self.folder)
        found = search.newest(prefer_linked)
        self._damaged |= search.damaged()
        self._digests |= search.digests
        if found is None:
            kind = UnreadableError if search.unsure else CheckpointError
            raise kind(self._nothing_good(search.faults))
        self._report_faults(search, found)
        if found.manifest is None:
            whose = "put there by another program after the last save" if search.manifests else "nanoGPT's, or the like"
            log.info(f"{self.path} has no manifest ({whose}): loaded after a check of its own")
        return found

    def load_best(self) -> CheckpointFile:
        """Return the good checkpoint with the lowest validation loss, of those trained on the newest one's data.

        Raises CheckpointError if there is none whose loss was measured.
        """
        self._wait()
        search = CheckpointSearch(self.folder)
        found = next(search.best_first(), None)
        self._report_faults(search, found)
        if found is None:
            raise CheckpointError(f"no checkpoint in {self.out_dir} has a validation loss: use the newest or ckpt.pt")
        return found

    def load_healthy(self) -> CheckpointFile | None:
        """Return the newest good checkpoint that was saved while training was stable; None if there is none."""
        self._wait()
        search = CheckpointSearch(self.folder)
        found = next(search.numbered(healthy=True), None)
        self._damaged |= search.damaged()
        self._report_faults(search, found)
        return found

    def _report_faults(self, search: CheckpointSearch, found: CheckpointFile | None) -> None:
        for fault in search.faults.values():
            self._report(f"{fault}; {found.path.name} is used instead" if found else fault)

    def _nothing_good(self, faults: dict[str, str]) -> str:
        foreign = next(
            (path for path in sorted(self.folder.glob("ckpt_*.pt")) if CONVERTIBLE.fullmatch(path.name)), None
        )
        hint = (
            f"; {foreign} is of the train_run or core line: convert with `{command('tools/convert.py')} {self.out_dir}`"
        )
        hint = hint if foreign else self._other_files()
        if not faults and (kind := kind_of_folder(self.folder)):
            return f"no checkpoint in {self.out_dir}: {kind}"
        if not faults:
            return (
                f"no checkpoint at {self.path}: set out_dir to the folder of a run that has saved one, "
                f"or train one with --init_from=scratch{hint}"
            )
        if set(faults) == {LINKED}:
            return (
                f"no good checkpoint in {self.out_dir}: {faults[LINKED]}; or start afresh with --init_from=scratch, "
                f"which moves it to a folder previous-N{hint}"
            )
        return (
            f"no good checkpoint in {self.out_dir}: {'; '.join(faults.values())}. Put a good copy in place; or, to use "
            "one as it is, rename it to ckpt.pt and move what is named ckpt-* away; or start afresh with "
            f"--init_from=scratch, which moves all of them to a folder previous-N{hint}"
        )

    def _other_files(self) -> str:
        """Return the hint that a file under another program's name may be the checkpoint; "" without such a file."""
        names = sorted(path.name for path in self.folder.glob("*") if path.suffix in (".pt", ".pth", ".ckpt"))
        others = [name for name in names if name != LINKED and sequence_of(name) is None]
        return f"; it has {', '.join(others[-3:])}: copy the one that is meant to {LINKED}" if others else ""

    def _report(self, text: str) -> None:
        self._warn(f"{self.out_dir}: {text}")
