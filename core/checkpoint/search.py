"""Which checkpoints of a folder are good: the files, compared with their manifests."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from core import files
from core.checkpoint.format import identity
from core.checkpoint.manifest import (
    FOLDER,
    FutureFormatError,
    Manifest,
    UnreadableError,
    name_of,
    read,
    sequence_of,
    verify,
)
from core.checkpoint.retention import by_loss
from core.checkpoint.run_folder import is_own_folder
from core.errors import CheckpointError
from core.files import PARTIAL

LINKED = "ckpt.pt"  # nanoGPT's name
Digests = dict[tuple[int, ...] | None, str]


class CheckpointFile(NamedTuple):
    """A good checkpoint. Without a manifest it is another program's, and readable."""

    path: Path
    manifest: Manifest | None


class CheckpointSearch:
    """One look at a folder.

    names:     the files of every number, temporary ones included
    loose:     folders of checkpoints that no manifest names, temporary ones included
    manifests: by number, those that are intact and belong to their file name
    unsure:    numbers that the disk failed to read; it may succeed another time
    faults:    by name, the files that were checked and are not good, and why
    digests:   checksums that are known already, by the stamp of the file; those of this search are added

    Raises FutureFormatError if a newer version of this program wrote here: its files must not be skipped or removed.
    """

    def __init__(self, folder: Path, digests: Digests | None = None) -> None:
        self.folder = folder
        self.linked_path = folder / LINKED
        # the file behind `ckpt.pt`: in a cache of other programs, that is a symbolic link
        is_link = self.linked_path.is_symlink()
        self._linked_file = Path(os.path.realpath(self.linked_path)) if is_link else self.linked_path
        self.digests: Digests = {} if digests is None else digests
        self.names: dict[int, list[str]] = {}
        self.manifests: dict[int, Manifest] = {}
        self.unsure: set[int] = set()
        self.faults: dict[str, str] = {}
        self._unmanifested: dict[int, str] = {}  # numbers without an intact manifest, and why
        found = _names(folder)
        for name in found:
            if (sequence := sequence_of(name)) is not None:
                self.names.setdefault(sequence, []).append(name)
        for sequence, names in self.names.items():
            if complete := [name for name in names if not name.endswith(PARTIAL)]:
                self._read_manifest(sequence, complete)
        folders = {name for name in found if FOLDER.fullmatch(name) and is_own_folder(folder / name)}
        for sequence, manifest in self.manifests.items():
            if manifest["file"] in folders:
                self.names[sequence].append(manifest["file"])
                folders.remove(manifest["file"])
        parts = [name for name in found if name.endswith(PARTIAL) and FOLDER.fullmatch(name.removesuffix(PARTIAL))]
        self.loose = sorted(folders) + parts

    def newest(self, prefer_linked: bool = False) -> CheckpointFile | None:
        """Return the newest good checkpoint, or with `prefer_linked` the one that is `ckpt.pt`; None if there is none.

        Another program's `ckpt.pt` is the newest, unless it was there when we last saved.
        """
        linked = self._linked()
        if linked and (prefer_linked or (linked.manifest is None and not self._was_there())):
            return linked
        found = next(self.numbered(), None)
        others = [self.folder / name for name in self.faults if name != LINKED]
        if any(files.same(self._linked_file, path) for path in others):
            self.faults.pop(LINKED, None)  # it is reported under its number
        if found and linked and linked.manifest is None:
            self.faults[LINKED] = f"{LINKED} is another program's, and older than the last save"
        return found or linked

    def numbered(self, healthy: bool = False) -> Iterator[CheckpointFile]:
        """Yield our good checkpoints, the newest first, or only the healthy ones. Each is verified when it is due."""
        for name in self.loose if not healthy else ():
            if not name.endswith(PARTIAL):
                self.faults[name] = _without_manifest(name)
        for sequence in sorted({*self.manifests, *self._unmanifested}, reverse=True):
            manifest = self.manifests.get(sequence)
            if healthy and not (manifest and manifest["healthy"]):
                continue
            if manifest is None:
                self.faults[f"{name_of(sequence)}.pt"] = self._unmanifested[sequence]
                continue
            try:
                yield CheckpointFile(verify(manifest, self.folder, self._digest), manifest)
            except CheckpointError as error:
                self.faults[manifest["file"]] = str(error)
                if isinstance(error, UnreadableError):
                    self.unsure.add(sequence)
                if self.linked_digest() == manifest["sha256"]:  # a copy of it, or the file itself, renamed
                    yield CheckpointFile(self.linked_path, manifest)

    def best_first(self) -> Iterator[CheckpointFile]:
        """Yield our good checkpoints in the order of their validation losses, each verified when it is due."""
        for manifest in by_loss(self.manifests.values()):
            try:
                yield CheckpointFile(verify(manifest, self.folder, self._digest), manifest)
            except CheckpointError as error:
                self.faults[manifest["file"]] = str(error)

    def linked_digest(self) -> str | None:
        """Return the checksum of `ckpt.pt`; None if it is no file, or the disk fails."""
        if not self._linked_file.is_file():
            return None
        try:
            return self._digest(self._linked_file)
        except OSError:
            return None

    def linked_numbers(self) -> list[int]:
        """Return the numbers of our checkpoints with the content of `ckpt.pt`; one that is the same file comes last."""
        digest = self.linked_digest()
        alike = [number for number, manifest in self.manifests.items() if manifest["sha256"] == digest]
        return sorted(alike, key=lambda number: (self._is_linked(number), number))

    def _is_linked(self, number: int) -> bool:
        return files.same(self._linked_file, self.folder / self.manifests[number]["file"])

    def damaged(self) -> set[int]:
        """Return the numbers of the checkpoints that were checked and are not good."""
        numbers = {manifest["file"]: number for number, manifest in self.manifests.items()}
        found = (numbers.get(name, sequence_of(name)) for name in self.faults)
        return {number for number in found if number is not None}

    def _read_manifest(self, sequence: int, complete: list[str]) -> None:
        path = self.folder / f"{name_of(sequence)}.json"
        if path.name not in complete:
            self._unmanifested[sequence] = _without_manifest(complete[0])
            return
        try:
            self.manifests[sequence] = read(path)
        except FutureFormatError:
            raise
        except CheckpointError as error:
            self._unmanifested[sequence] = str(error)
            if isinstance(error, UnreadableError):
                self.unsure.add(sequence)

    def _linked(self) -> CheckpointFile | None:
        """Return `ckpt.pt` as one of ours, or as another program's. None if it is absent or not good."""
        if not os.path.lexists(self.linked_path):
            return None
        if not self._linked_file.is_file():
            return self._reject_linked(self._why_no_file())
        if numbers := self.linked_numbers():
            manifest = self.manifests[numbers[-1]]
            own = self.folder / manifest["file"]
            return CheckpointFile(own if files.same(own, self._linked_file) else self.linked_path, manifest)
        if twin := self._unmanifested_copy():
            return self._reject_linked(f"{LINKED} is {twin}, which has no manifest that can be trusted")
        try:
            run, iter_num = identity(self.linked_path)
        except CheckpointError as error:
            return self._reject_linked(str(error))
        for manifest in self.manifests.values():
            if run is not None and (run, iter_num) == (manifest.get("run"), manifest["iter_num"]):
                return self._reject_linked(f"{LINKED} is {manifest['file']}, damaged or changed since it was saved")
        return CheckpointFile(self.linked_path, None)

    def _why_no_file(self) -> str:
        """Return what `ckpt.pt` is instead of a file, and what to do."""
        if not self.linked_path.is_symlink():
            return f"{LINKED} is {files.kind_of(self.linked_path)}: put a copy of the checkpoint in its place"
        return (
            f"{LINKED} is a symbolic link to {os.readlink(self.linked_path)}, where there is no file: fetch the file "
            "(`git annex get`, `dvc pull`), or put a copy of it in its place"
        )

    def _unmanifested_copy(self) -> str | None:
        """Return the name of a checkpoint without an intact manifest that `ckpt.pt` is, or is a copy of."""
        if not any(name.endswith(".json") for names in self.names.values() for name in names):
            return None
        for sequence in self._unmanifested:
            path = self.folder / f"{name_of(sequence)}.pt"
            if files.same(path, self._linked_file) or self._is_copy(path):
                return path.name
        return None

    def _is_copy(self, path: Path) -> bool:
        """Return whether `ckpt.pt` has the content of another file."""
        if path.is_symlink() or not path.is_file() or files.size(path) != files.size(self._linked_file):
            return False
        try:
            return self._digest(path) == self.linked_digest()
        except OSError:
            return False

    def _was_there(self) -> bool:
        """Return whether `ckpt.pt` had this content already when we last saved."""
        newest = self.manifests[max(self.manifests)] if self.manifests else {}
        return newest.get("beside") == self.linked_digest()

    def _reject_linked(self, fault: str) -> CheckpointFile | None:
        self.faults[LINKED] = fault
        return None

    def _digest(self, path: Path) -> str:
        """Return a checksum; a file with two names is read once."""
        stamp = files.stamp(path) if path.is_file() else None
        digest = self.digests.get(stamp) if stamp else None
        if digest is None:
            digest = files.sha256(path)
            if stamp:
                self.digests[stamp] = digest
        return digest


def _without_manifest(name: str) -> str:
    return f"{name} has no manifest: its save was cut short, or the manifest is lost"


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        kind = files.kind_of(folder) or "a file"
        raise CheckpointError(f"{folder} is {kind}, wanted the folder of a run") from None
    except OSError as error:
        raise UnreadableError(f"{folder} cannot be read ({error.strerror or error})") from None
