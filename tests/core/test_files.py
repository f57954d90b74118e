"""Files: written completely or not at all, flushed before the call returns, and hashed without links."""

import argparse
import errno
import hashlib
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from core import files
from core.errors import CheckpointError


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def write_folder(path: Path) -> None:
    (path / "inner").mkdir(parents=True)
    (path / "a").write_text("one")
    (path / "inner" / "b").write_text("two")


def failing(number: int) -> "type[OSError]":
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail  # type: ignore[return-value]


@pytest.mark.parametrize("error", [OSError("full"), RuntimeError("in write"), KeyboardInterrupt()])
def test_a_write_that_fails_half_way_keeps_the_old_file(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "file").write_text("old")

    def write(path: Path) -> None:
        path.write_text("ne")
        raise error

    with pytest.raises(type(error)):
        files.write_atomically(tmp_path / "file", write)

    assert names(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "old"


def test_bytes_replace_the_old_content(tmp_path: Path) -> None:
    for content in (b"old", b"new"):
        files.write_bytes_atomically(tmp_path / "file", content)

        assert names(tmp_path) == ["file"] and (tmp_path / "file").read_bytes() == content


@pytest.mark.parametrize("leftover", ["file", "folder"])
@pytest.mark.parametrize("written", ["file", "folder"])
def test_leftovers_of_a_killed_process_are_overwritten(tmp_path: Path, leftover: str, written: str) -> None:
    temporary = tmp_path / "new.part"
    temporary.write_text("half") if leftover == "file" else write_folder(temporary)

    files.write_atomically(
        tmp_path / "new", write_folder if written == "folder" else lambda path: path.write_text("x") and None
    )

    assert names(tmp_path) == ["new"] and (tmp_path / "new").is_dir() == (written == "folder")


def test_every_file_and_folder_is_flushed_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed, fsync = [], os.fsync

    def recording(descriptor: int) -> None:
        flushed.append((os.fstat(descriptor).st_ino, names(tmp_path)))
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", recording)
    files.write_atomically(tmp_path / "new", write_folder)

    parts = [tmp_path / "new", tmp_path / "new" / "a", tmp_path / "new" / "inner", tmp_path / "new" / "inner" / "b"]
    assert {inode for inode, _ in flushed} == {part.stat().st_ino for part in parts}
    assert all(listed == ["new.part"] for _, listed in flushed)


def test_a_link_is_the_same_file_and_replaces_an_existing_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").write_text("old")
    for _ in range(2):  # the second time both names are already one file
        files.link(tmp_path / "a", tmp_path / "b")

        assert names(tmp_path) == ["a", "b"] and os.path.samefile(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("number", [errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS])
def test_a_copy_is_made_where_links_are_impossible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(files.os, "link", failing(number))
    (tmp_path / "a").write_text("new")

    files.link(tmp_path / "a", tmp_path / "b")

    assert names(tmp_path) == ["a", "b"] and (tmp_path / "b").read_text() == "new"
    assert not os.path.samefile(tmp_path / "a", tmp_path / "b")


def test_a_copy_is_flushed_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(files.os, "link", failing(errno.EPERM))
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: flushed.append(os.fstat(descriptor).st_ino))
    (tmp_path / "a").write_text("new")

    files.link(tmp_path / "a", tmp_path / "b")

    assert flushed == [(tmp_path / "b").stat().st_ino]


def test_on_a_full_disk_no_copy_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.os, "link", failing(errno.ENOSPC))
    (tmp_path / "a").write_text("new")

    with pytest.raises(OSError, match="No space"):
        files.link(tmp_path / "a", tmp_path / "b")

    assert names(tmp_path) == ["a"]


def test_flush_folder_ignores_unsupported_fsync_but_no_disk_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.os, "fsync", failing(errno.EINVAL))
    files.flush_folder(tmp_path)
    monkeypatch.setattr(files.os, "fsync", failing(errno.EIO))

    with pytest.raises(OSError):
        files.flush_folder(tmp_path)


def test_make_folder_makes_and_flushes_missing_parents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[Path] = []
    monkeypatch.setattr(files, "flush_folder", flushed.append)

    files.make_folder(tmp_path / "a" / "b")
    files.make_folder(tmp_path / "a" / "b")

    assert (tmp_path / "a" / "b").is_dir()
    assert flushed == [tmp_path / "a", tmp_path]


def test_remove_deletes_files_folders_and_links_but_no_link_target(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    files.remove(tmp_path / "link")
    files.remove(tmp_path / "nothing")

    assert names(tmp_path / "folder") == ["a", "inner"]

    files.remove(tmp_path / "folder")

    assert names(tmp_path) == []


def test_move_away_uses_the_first_free_name(tmp_path: Path) -> None:
    for text in ("one", "two", "three"):
        (tmp_path / "x").write_text(text)
        files.move_away(tmp_path / "x", ".old")

    assert {name: (tmp_path / name).read_text() for name in names(tmp_path)} == {
        "x.old": "one",
        "x.old-2": "two",
        "x.old-3": "three",
    }


def test_a_files_hash_is_that_of_its_content(tmp_path: Path) -> None:
    content = os.urandom(2 * files.CHUNK_BYTES + 5)
    (tmp_path / "a").write_bytes(content)

    assert files.sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()
    assert files.size(tmp_path / "a") == len(content)


def test_a_folders_hash_depends_on_names_sizes_and_contents(tmp_path: Path) -> None:
    def digest(**contents: str) -> str:
        folder = tmp_path / str(len(names(tmp_path)))
        folder.mkdir()
        for name, content in contents.items():
            (folder / name).write_text(content)
        return files.sha256(folder)

    assert digest(a="one", b="two") == digest(b="two", a="one")
    different = [
        digest(a="one", b="two"),
        digest(a="onet", b="wo"),
        digest(a="two", b="one"),
        digest(a="one"),
        digest(),
    ]
    assert len(set(different)) == len(different)


def test_a_folders_hash_does_not_depend_on_the_order_of_a_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "folder")
    digest, rglob = files.sha256(tmp_path / "folder"), Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda path, pattern: reversed(sorted(rglob(path, pattern))))

    assert files.sha256(tmp_path / "folder") == digest


@pytest.mark.parametrize("inside", [True, False])
def test_a_link_has_no_hash(tmp_path: Path, inside: bool) -> None:
    (tmp_path / "secret").write_text("x")
    link = tmp_path / "folder" / "link"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "secret")

    with pytest.raises(CheckpointError, match="link is a link"):
        files.sha256(link.parent if inside else link)


def test_hashing_a_pipe_raises_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(CheckpointError):
        files.sha256(tmp_path / "pipe")


def test_a_stamp_changes_when_a_file_is_written_or_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a"
    stamps = [files.stamp(path)]
    path.write_text("one")
    stamps.append(files.stamp(path))
    assert stamps[-1] == files.stamp(path)
    path.write_text("three")
    stamps.append(files.stamp(path))
    (tmp_path / "b").write_text("three")
    os.replace(tmp_path / "b", path)
    stamps.append(files.stamp(path))

    assert stamps[0] is None and len(set(stamps)) == 4


def test_a_stamp_tells_files_of_equal_size_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, ns=(0, 5))
    before = files.stamp(tmp_path / "a")
    os.replace(tmp_path / "b", tmp_path / "a")
    replaced = files.stamp(tmp_path / "a")
    os.utime(tmp_path / "a", ns=(0, 6))

    assert len({before, replaced, files.stamp(tmp_path / "a")}) == 3


def test_hard_links_are_the_same_file_and_symbolic_links_are_not(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "c").symlink_to("a")

    assert files.same(tmp_path / "a", tmp_path / "b")
    assert not files.same(tmp_path / "a", tmp_path / "c") and not files.same(tmp_path / "a", tmp_path / "d")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (1536 * 2**20, "1.5 GiB"),
        (2**30 - 1, "1,023.9 MiB"),
        (2**54, "16,384.0 TiB"),
    ],
)
def test_sizes_are_texts(count: int, text: str) -> None:
    assert files.size_text(count) == text


def test_what_is_no_regular_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nowhere")

    assert files.kind_of(tmp_path) == "a folder"
    assert files.kind_of(tmp_path / "pipe") == "a named pipe"
    assert files.kind_of(Path("/dev/null")) == "a device"
    assert files.kind_of(tmp_path / "dangling") == "a symbolic link to nowhere, where there is no file"
    assert {files.kind_of(tmp_path / name) for name in ("file", "link", "none", "x" * 300)} == {None}


def test_only_an_open_file_of_this_process_may_be_a_pipe(tmp_path: Path) -> None:
    """As that of `program <(command)` is; the other end of any other pipe may never be opened."""
    os.mkfifo(tmp_path / "pipe")
    reading, writing = os.pipe()
    try:
        files.require_file(Path(f"/dev/fd/{reading}"))
    finally:
        os.close(reading)
        os.close(writing)
    files.require_file(tmp_path / "none")

    with pytest.raises(OSError, match="it is a named pipe"):
        files.require_file(tmp_path / "pipe")


def test_a_reason_has_no_file_name_and_one_line() -> None:
    assert files.reason(OSError(errno.EROFS, "Read-only file system", "out/x")) == "Read-only file system"
    assert files.reason(OSError("disk failed")) == "OSError: disk failed"
    assert files.reason(RuntimeError("torch says\nframe #0")) == "RuntimeError: torch says"
    assert files.reason(ValueError()) == "ValueError: "


@pytest.mark.parametrize(
    ("number", "free_files", "text"),
    [
        (errno.ENOSPC, 9, ": only 3.0 MiB are free"),
        (errno.ENOSPC, 0, ": only 3.0 MiB are free, but no more files can be added"),
        (errno.EDQUOT, 9, ": only 3.0 MiB are free"),
        (errno.EROFS, 9, ""),
    ],
)
def test_the_room_on_a_full_disk_is_measured(
    number: int, free_files: int, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SimpleNamespace(f_bavail=768, f_frsize=4096, f_files=100, f_favail=free_files)
    monkeypatch.setattr(os, "statvfs", lambda path: disk)

    assert files.room_left(OSError(number, os.strerror(number)), tmp_path) == text
    assert files.room_left(RuntimeError(), tmp_path) == ""


@pytest.mark.parametrize("text", ["out", "a/b.png", "é" * 127, "/".join(["a" * 200] * 19), ""])
def test_a_path_argument_is_a_path(text: str) -> None:
    assert files.path_argument(text) == Path(text)


def test_a_path_argument_is_no_url() -> None:
    with pytest.raises(
        argparse.ArgumentTypeError, match="^got https://a.b/c.pt, wanted a path on this machine, no URL"
    ):
        files.path_argument("https://a.b/c.pt")


@pytest.mark.parametrize("text", ["a" * 256, "é" * 128, "/".join(["a" * 200] * 20), "x/" + "1" * 5000])
def test_a_path_argument_that_no_file_system_takes_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="^got .{43} .*, wanted a path of at most 4000 bytes"):
        files.path_argument(text)
