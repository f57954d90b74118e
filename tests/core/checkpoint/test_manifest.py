"""Manifests: read as they were written, or refused with a reason."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from core.checkpoint import manifest
from core.checkpoint.manifest import FutureFormatError
from core.errors import CheckpointError

NOTES = {"iter_num": 7, "val_loss": 2.5, "healthy": True, "batch": ["ab"]}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    (tmp_path / "ckpt-000004.pt").write_text("content")
    path = tmp_path / "ckpt-000004.json"
    manifest.write(path, manifest.describe(tmp_path / "ckpt-000004.pt", 4, NOTES))
    return path


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_manifest_is_read_as_it_was_written(written: Path) -> None:
    fields = manifest.read(written)

    assert fields == {
        "format": 1,
        "sequence": 4,
        "file": "ckpt-000004.pt",
        "sha256": "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73",
        "bytes": 7,
        **NOTES,
    }
    assert manifest.verify(fields, written.parent) == written.parent / "ckpt-000004.pt"


def test_a_note_cannot_overwrite_a_field_of_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "ckpt-000001.pt").write_text("x")

    assert manifest.describe(tmp_path / "ckpt-000001.pt", 1, NOTES | {"file": "../x", "bytes": 9})["bytes"] == 1


def test_notes_are_copied_and_numbers_that_are_not_finite_become_null() -> None:
    notes: dict[str, Any] = NOTES | {"lowest": float("inf"), "list": [float("nan"), 1]}
    copy = manifest.plain(notes)
    notes["list"].append(2)

    assert copy == NOTES | {"lowest": None, "list": [None, 1]}


@pytest.mark.parametrize("name", ["iter_num", "val_loss", "healthy"])
def test_notes_that_a_manifest_needs_are_checked_before_a_write(name: str) -> None:
    with pytest.raises(AssertionError, match=name):
        manifest.plain({key: value for key, value in NOTES.items() if key != name})


@pytest.mark.parametrize(
    ("name", "sequence"),
    [
        ("ckpt-000001.pt", 1),
        ("ckpt-000001.json", 1),
        ("ckpt-000001", 1),
        ("ckpt-000012.pt.part", 12),
        ("ckpt-1234567.json.part", 1234567),
        ("ckpt.pt", None),
        ("ckpt-1.pt", None),
        ("ckpt-0000001.pt", None),
        ("ckpt-" + 6 * chr(0x661) + ".pt", None),
        ("ckpt-000001.pt.bak", None),
        ("my-ckpt-000001.pt", None),
        ("ckpt-000001.pt\n", None),
    ],
)
def test_sequence_of_parses_the_name_of_a_checkpoint(name: str, sequence: int | None) -> None:
    assert manifest.sequence_of(name) == sequence


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (b"[1]", "no manifest"),
        (b"null", "no manifest"),
        (b"{}", "'format' is missing or wrong"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(written: Path, content: bytes, reason: str) -> None:
    written.write_bytes(content)

    with pytest.raises(CheckpointError, match=f"^ckpt-000004.json is .*{reason}"):
        manifest.read(written)


@pytest.mark.parametrize("field", [*manifest.FIELDS])
@pytest.mark.parametrize("value", [None, True, "x", [], 1.5])
def test_a_field_of_another_type_is_refused_even_with_the_right_seal(written: Path, field: str, value: Any) -> None:
    fields = manifest.read(written)
    kind = manifest.FIELDS[field]
    if isinstance(value, kind) and (kind is bool or value is not True):
        return
    manifest.write(written, {**fields, field: value})
    with pytest.raises(CheckpointError, match=f"^ckpt-000004.json is damaged: its '{field}' is missing or wrong$"):
        manifest.read(written)


def test_a_changed_value_breaks_the_seal(written: Path) -> None:
    edit(written, iter_num=-1)
    with pytest.raises(CheckpointError, match="it is not as it was written$"):
        manifest.read(written)


def test_every_single_flipped_bit_is_noticed_or_changes_nothing(written: Path) -> None:
    content, original = written.read_bytes(), manifest.read(written)
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        written.write_bytes(damaged)
        with suppress(CheckpointError):
            assert manifest.read(written) == original


@pytest.mark.parametrize("name", ["ckpt-000005.json", "ckpt-000003.json"])
def test_a_manifest_under_another_name_is_refused(written: Path, name: str) -> None:
    os.rename(written, written.parent / name)

    with pytest.raises(CheckpointError, match="is the manifest of another checkpoint"):
        manifest.read(written.parent / name)


@pytest.mark.parametrize(
    "file", ["../ckpt-000004.pt", "/etc/passwd", "ckpt-000003.pt", "ckpt.pt", "", "a/ckpt-000004.pt"]
)
def test_a_manifest_of_another_file_is_refused_even_if_sealed(written: Path, file: str) -> None:
    manifest.write(written, manifest.read(written) | {"file": file})

    with pytest.raises(CheckpointError, match="is the manifest of another checkpoint"):
        manifest.read(written)


def test_a_newer_format_raises_future_format_error(written: Path) -> None:
    edit(written, format=2)

    with pytest.raises(FutureFormatError, match="is of format 2, this program knows 1: a newer version"):
        manifest.read(written)

    written.write_text('{"format": 7, "all": "different"}')
    with pytest.raises(FutureFormatError):
        manifest.read(written)


def test_a_link_or_a_pipe_in_place_of_a_manifest_is_refused(written: Path) -> None:
    os.rename(written, written.parent / "elsewhere.json")
    written.symlink_to("elsewhere.json")
    with pytest.raises(CheckpointError, match="is a link, or no file"):
        manifest.read(written)

    written.unlink()
    os.mkfifo(written)
    with pytest.raises(CheckpointError, match="is a link, or no file"):
        manifest.read(written)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "is missing"),
        ("conten", "has 6 bytes, its manifest says 7"),
        ("", "has 0 bytes, its manifest says 7"),
        ("content!", "has 8 bytes, its manifest says 7"),
        ("c0ntent", "is damaged: its checksum is not its manifest's"),
    ],
)
def test_content_that_is_not_as_it_was_saved_is_refused(written: Path, content: str | None, reason: str) -> None:
    fields, path = manifest.read(written), written.with_suffix(".pt")
    path.unlink() if content is None else path.write_text(content)

    with pytest.raises(CheckpointError, match=f"^ckpt-000004.pt {reason}$"):
        manifest.verify(fields, written.parent)


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_content_that_is_no_file_is_refused(written: Path, kind: str) -> None:
    fields, path = manifest.read(written), written.with_suffix(".pt")
    os.rename(path, written.parent / "elsewhere")
    if kind == "link":
        path.symlink_to("elsewhere")
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)

    with pytest.raises(CheckpointError):
        manifest.verify(fields, written.parent)


def test_a_folder_is_verified_file_by_file(tmp_path: Path) -> None:
    folder = tmp_path / "ckpt-000001"
    folder.mkdir()
    (folder / "a").write_text("one")
    (folder / "b").write_text("two")
    fields = manifest.describe(folder, 1, NOTES)
    assert fields["bytes"] == 6 and manifest.verify(fields, tmp_path) == folder

    os.rename(folder / "a", folder / "c")
    with pytest.raises(CheckpointError, match="checksum"):
        manifest.verify(fields, tmp_path)
