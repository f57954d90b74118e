"""Which checkpoints of a folder are loaded, skipped or refused, after any damage to its files."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from core import files
from core.checkpoint.find import save_checkpoint
from core.checkpoint.format import load_checkpoint
from core.checkpoint.manager import CheckpointManager
from core.checkpoint.manifest import FutureFormatError
from core.errors import CheckpointError


def content(iter_num: int, run: str | None = "R") -> dict[str, Any]:
    own = {} if run is None else {"run": run}
    return {"model": {"w": torch.full((64,), float(iter_num))}, "model_args": {}, "iter_num": iter_num, **own}


def save(manager: CheckpointManager, iter_num: int, **how: Any) -> None:
    notes = {"iter_num": iter_num, "val_loss": None, "healthy": how.pop("healthy", True), "run": "R"}
    save_checkpoint(manager, content(iter_num), notes, **how)


@pytest.fixture(params=["hard link", "copy"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a folder with checkpoints 1 to 4 of iterations 10 to 40; `ckpt.pt` is the last one, or a copy of it."""
    manager = CheckpointManager(tmp_path, keep_last=4)
    for number in (1, 2, 3, 4):
        save(manager, 10 * number)
    if request.param == "copy":
        shutil.copy(tmp_path / "ckpt.pt", tmp_path / "copy")
        os.replace(tmp_path / "copy", tmp_path / "ckpt.pt")
    return tmp_path


def loaded(folder: Path, **how: Any) -> tuple[str, int]:
    """Return the name of the checkpoint that is loaded, and the iteration in its content."""
    path = CheckpointManager(folder).load(**how).path
    return path.name, load_checkpoint(path)["iter_num"]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def flip(path: Path) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    path.write_bytes(damaged)


def swap(one: Path, other: Path) -> None:
    temporary = one.with_name("temporary")
    os.rename(one, temporary)
    os.rename(other, one)
    os.rename(temporary, other)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes, indent=1))


def replace_by_link(path: Path) -> None:
    elsewhere = path.with_name(f"elsewhere-{path.name}")
    os.rename(path, elsewhere)
    path.symlink_to(elsewhere.name)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


class Hostile:
    def __init__(self, made: Path) -> None:
        self.made = str(made)

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (self.made,)


DAMAGE_TO_CONTENT: dict[str, Callable[[Path], None]] = {
    "flip": flip,
    "truncation": lambda path: os.truncate(path, 100),
    "nothing left": lambda path: os.truncate(path, 0),
    "hostile": lambda path: torch.save({"model": Hostile(path.with_name("made"))}, path),
}
DAMAGE_TO_NAME: dict[str, Callable[[Path], None]] = {
    "removed": Path.unlink,
    "folder": replace_by_folder,
    "link": replace_by_link,
    "swapped": lambda path: swap(path, path.with_name("ckpt-000002.pt")),
}
DAMAGE_TO_MANIFEST: dict[str, Callable[[Path], None]] = {
    "removed": Path.unlink,
    "not json": lambda path: os.truncate(path, 40),
    "empty": lambda path: os.truncate(path, 0),
    "plausible": lambda path: edit(path, iter_num=41),
    "outside": lambda path: edit(path, file="../ckpt-000004.pt"),
    "of another checkpoint": lambda path: shutil.copy(path.with_name("ckpt-000002.json"), path) and None,
    "link": replace_by_link,
    "folder": replace_by_folder,
}


@pytest.mark.parametrize("kind", DAMAGE_TO_CONTENT)
def test_damaged_content_is_skipped_and_the_newest_intact_one_loaded(
    folder: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    linked = os.path.samefile(folder / "ckpt.pt", folder / "ckpt-000004.pt")
    DAMAGE_TO_CONTENT[kind](folder / "ckpt-000004.pt")

    assert loaded(folder) == (("ckpt-000003.pt", 30) if linked else ("ckpt.pt", 40))  # `ckpt.pt` is an intact copy
    assert len(warnings(caplog)) == 1 and "ckpt-000004.pt" in warnings(caplog)[0]
    assert warnings(caplog)[0].endswith("is used instead") and not (folder / "made").exists()


@pytest.mark.parametrize("kind", DAMAGE_TO_NAME)
def test_lost_or_swapped_content_is_loaded_by_its_other_name(
    folder: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    DAMAGE_TO_NAME[kind](folder / "ckpt-000004.pt")

    assert loaded(folder) == ("ckpt.pt", 40)
    assert len(warnings(caplog)) == 1 and "ckpt-000004.pt" in warnings(caplog)[0]

    (folder / "ckpt.pt").unlink()
    assert loaded(folder) == ("ckpt-000003.pt", 30)


@pytest.mark.parametrize("kind", DAMAGE_TO_MANIFEST)
def test_a_checkpoint_without_an_intact_manifest_is_skipped(
    folder: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    DAMAGE_TO_MANIFEST[kind](folder / "ckpt-000004.json")
    for how in ({}, {"prefer_linked": True}):
        caplog.clear()

        assert loaded(folder, **how) == ("ckpt-000003.pt", 30)
        assert len(warnings(caplog)) <= 2 and "ckpt-000004" in warnings(caplog)[0]


def test_two_damaged_checkpoints_are_both_reported(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "ckpt-000004.json").unlink()
    flip(folder / "ckpt-000003.pt")

    assert loaded(folder) == ("ckpt-000002.pt", 20)
    assert any("ckpt-000003.pt" in text for text in warnings(caplog))
    assert any("ckpt-000004.pt" in text for text in warnings(caplog))


def test_checkpoints_with_swapped_manifests_are_both_skipped(folder: Path) -> None:
    swap(folder / "ckpt-000004.json", folder / "ckpt-000003.json")

    assert loaded(folder) == ("ckpt-000002.pt", 20)


def test_loading_changes_no_file(folder: Path) -> None:
    flip(folder / "ckpt-000004.pt")
    (folder / "ckpt-000002.json").unlink()

    def file_contents() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    before = file_contents()
    CheckpointManager(folder).load()
    CheckpointManager(folder).load_healthy()

    assert file_contents() == before


def test_each_fault_is_reported_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "ckpt-000004.json").unlink()
    manager = CheckpointManager(folder)
    for _ in range(3):
        manager.load()

    assert len(warnings(caplog)) == len(set(warnings(caplog)))


def test_the_newest_checkpoint_is_the_highest_number_whatever_its_mtime(folder: Path) -> None:
    for number in (1, 2, 3, 4):
        for name in (f"ckpt-00000{number}.pt", f"ckpt-00000{number}.json"):
            os.utime(folder / name, (10**9 - number, 10**9 - number))

    assert loaded(folder) == ("ckpt-000004.pt", 40)


@pytest.mark.parametrize("number", [1, 4])
def test_a_checkpoint_of_a_newer_format_is_neither_skipped_nor_removed(folder: Path, number: int) -> None:
    edit(folder / f"ckpt-00000{number}.json", format=99)
    before = sorted(os.listdir(folder))
    manager = CheckpointManager(folder)
    for act in (manager.load, manager.load_healthy, lambda: save(manager, 50)):
        with pytest.raises(FutureFormatError, match="a newer version of it wrote the checkpoints in this folder"):
            act()

    assert sorted(os.listdir(folder)) == before


def test_load_healthy_skips_unhealthy_checkpoints(folder: Path) -> None:
    manager = CheckpointManager(folder, keep_last=9)
    save(manager, 50, healthy=False)

    assert manager.load().path.name == "ckpt-000005.pt"
    assert (healthy := manager.load_healthy()) and healthy.path.name == "ckpt-000004.pt"


# checkpoints of another program


def test_a_checkpoint_of_nanogpt_is_loaded_with_one_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    torch.save(content(5, run=None), tmp_path / "ckpt.pt")

    latest = CheckpointManager(tmp_path).load()

    assert latest == (tmp_path / "ckpt.pt", None)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert CheckpointManager(tmp_path).load_healthy() is None


@pytest.mark.parametrize("kind", ["flip", "truncation", "nothing left", "hostile"])
def test_a_damaged_foreign_checkpoint_is_refused(tmp_path: Path, kind: str) -> None:
    torch.save(content(5, run=None), tmp_path / "ckpt.pt")
    DAMAGE_TO_CONTENT[kind](tmp_path / "ckpt.pt")

    with pytest.raises(CheckpointError, match=r"no good checkpoint in .*: cannot read .*ckpt\.pt"):
        CheckpointManager(tmp_path).load()
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("in_place", [True, False])
def test_a_ckpt_pt_written_by_another_program_after_ours_is_the_newest(
    folder: Path, in_place: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """In place means through the hard link, so that ckpt-000004.pt no longer matches its manifest."""
    caplog.set_level("INFO")
    if not in_place:
        (folder / "ckpt.pt").unlink()
    torch.save(content(45, run=None), folder / "ckpt.pt")

    assert loaded(folder) == ("ckpt.pt", 45)
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_an_incomplete_ckpt_pt_of_another_program_is_skipped(folder: Path) -> None:
    linked = os.path.samefile(folder / "ckpt.pt", folder / "ckpt-000004.pt")
    torch.save(content(45, run=None), folder / "ckpt.pt")
    os.truncate(folder / "ckpt.pt", 500)

    assert loaded(folder) == (("ckpt-000003.pt", 30) if linked else ("ckpt-000004.pt", 40))


def test_our_checkpoint_changed_in_place_counts_as_damaged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(content(40) | {"more": 1}, folder / "ckpt.pt")
    linked = os.path.samefile(folder / "ckpt.pt", folder / "ckpt-000004.pt")

    assert loaded(folder) == (("ckpt-000003.pt", 30) if linked else ("ckpt-000004.pt", 40))
    assert len(warnings(caplog)) == 1


def test_a_foreign_ckpt_pt_from_before_our_last_save_is_not_the_newest(tmp_path: Path) -> None:
    """A run continues from nanoGPT's file, and does not link its first checkpoints, or is killed before the link."""
    torch.save(content(5, run=None), tmp_path / "ckpt.pt")
    manager = CheckpointManager(tmp_path)
    manager.load()
    save(manager, 10, link=False)

    assert loaded(tmp_path) == ("ckpt-000001.pt", 10)
    assert loaded(tmp_path, prefer_linked=True) == ("ckpt.pt", 5)

    flip(tmp_path / "ckpt-000001.pt")
    assert loaded(tmp_path) == ("ckpt.pt", 5)  # the only intact one


def test_a_foreign_ckpt_pt_of_the_same_iteration_is_not_rejected(tmp_path: Path) -> None:
    """Neither checkpoint has a run id."""
    notes = {"iter_num": 10, "val_loss": None, "healthy": True}
    save_checkpoint(CheckpointManager(tmp_path), content(10, run=None), notes, link=False)
    torch.save(content(10, run=None) | {"more": 1}, tmp_path / "ckpt.pt")

    assert loaded(tmp_path) == ("ckpt.pt", 10)


def test_prefer_linked_loads_ckpt_pt(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    save(manager, 10)
    save(manager, 20, link=False)

    assert loaded(tmp_path) == ("ckpt-000002.pt", 20)
    assert loaded(tmp_path, prefer_linked=True) == ("ckpt-000001.pt", 10)


def test_of_equal_checkpoints_the_one_that_is_ckpt_pt_is_loaded(tmp_path: Path) -> None:
    torch.save(content(10), tmp_path / "same")
    for link in (True, False):  # `torch.save` would write other bytes, because it writes the file's name too
        notes = {"iter_num": 10, "val_loss": None, "healthy": True}
        CheckpointManager(tmp_path).save(lambda path: shutil.copy(tmp_path / "same", path) and None, notes, link=link)

    assert loaded(tmp_path, prefer_linked=True) == ("ckpt-000001.pt", 10)


def test_a_ckpt_pt_that_is_no_file_is_skipped(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    replace_by_folder(folder / "ckpt.pt")

    assert loaded(folder) == ("ckpt-000004.pt", 40) == loaded(folder, prefer_linked=True)
    assert "ckpt.pt is a folder: put a copy of the checkpoint in its place" in warnings(caplog)[0]


@pytest.mark.parametrize("target", ["elsewhere.pt", "deep/elsewhere.pt", "ckpt-000004.pt"])
def test_our_ckpt_pt_may_be_a_symbolic_link(folder: Path, target: str, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "deep").mkdir()
    if target == "ckpt-000004.pt":
        (folder / "ckpt.pt").unlink()
    else:
        os.rename(folder / "ckpt.pt", folder / target)
    (folder / "ckpt.pt").symlink_to(target)

    assert loaded(folder) == ("ckpt-000004.pt", 40) and loaded(folder, prefer_linked=True)[1] == 40
    assert warnings(caplog) == []

    flip(folder / "ckpt-000004.pt")
    assert loaded(folder)[1] == (40 if target != "ckpt-000004.pt" and (folder / target).stat().st_nlink == 1 else 30)


def test_another_programs_ckpt_pt_is_read_through_a_chain_of_links(tmp_path: Path) -> None:
    """As in the caches of Hugging Face, DVC and git-annex."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    torch.save(content(5, run=None), tmp_path / "blobs" / "4f1d2c")
    (tmp_path / "blobs" / "alias").symlink_to("4f1d2c")
    (tmp_path / "snapshot" / "ckpt.pt").symlink_to("../blobs/alias")

    assert loaded(tmp_path / "snapshot") == ("ckpt.pt", 5) == loaded(tmp_path / "snapshot", prefer_linked=True)

    before = (tmp_path / "blobs" / "4f1d2c").read_bytes()
    manager = CheckpointManager(tmp_path / "snapshot")
    save(manager, 10)  # a save replaces the link, and not the file behind it
    assert (tmp_path / "blobs" / "4f1d2c").read_bytes() == before
    assert not manager.path.is_symlink() and loaded(tmp_path / "snapshot") == ("ckpt-000001.pt", 10)
    assert (tmp_path / "snapshot" / "ckpt.pt.foreign").resolve() == (tmp_path / "blobs" / "4f1d2c").resolve()


def test_the_file_behind_a_link_may_change_during_a_run(tmp_path: Path) -> None:
    torch.save(content(5, run=None), tmp_path / "elsewhere")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ckpt.pt").symlink_to("../elsewhere")
    manager = CheckpointManager(tmp_path / "out")
    manager.load()
    save(manager, 10, link=False)
    assert loaded(tmp_path / "out") == ("ckpt-000001.pt", 10)  # the link was there before that save

    torch.save(content(50, run=None), tmp_path / "elsewhere")
    assert loaded(tmp_path / "out") == ("ckpt.pt", 50)


@pytest.mark.parametrize("target", ["gone.pt", "ckpt.pt", "."])
def test_a_link_to_no_file_is_refused_with_advice(tmp_path: Path, target: str) -> None:
    (tmp_path / "ckpt.pt").symlink_to(target)

    with pytest.raises(CheckpointError, match="is a symbolic link to .*, where there is no file: fetch the file"):
        CheckpointManager(tmp_path).load()


# no intact checkpoint


@pytest.mark.parametrize("made", [True, False])
def test_without_a_checkpoint_the_error_says_what_to_do(tmp_path: Path, made: bool) -> None:
    folder = tmp_path if made else tmp_path / "out"
    with pytest.raises(CheckpointError) as error:
        CheckpointManager(folder).load()

    assert str(error.value) == (
        f"no checkpoint at {folder}/ckpt.pt: set out_dir to the folder of a run that has saved one, "
        "or train one with --init_from=scratch"
    )


def test_numbered_files_without_any_manifest_are_refused_with_advice(folder: Path) -> None:
    for path in folder.glob("*.json"):
        path.unlink()
    (folder / "ckpt.pt").unlink()

    with pytest.raises(CheckpointError, match=r"ckpt-000004.pt has no manifest: .* rename it to ckpt\.pt"):
        CheckpointManager(folder).load()

    for path in folder.glob("ckpt-*"):
        os.rename(path, folder / "ckpt.pt")  # the advice works
    assert loaded(folder)[0] == "ckpt.pt"


def test_manifests_without_their_content_are_refused(folder: Path) -> None:
    for path in folder.glob("*.pt"):
        path.unlink()

    with pytest.raises(CheckpointError, match=r"ckpt-000004\.pt is missing; .*ckpt-000001\.pt is missing"):
        CheckpointManager(folder).load()
    assert CheckpointManager(folder).load_healthy() is None


def test_an_out_dir_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")

    with pytest.raises(CheckpointError, match="out is a file, wanted the folder of a run"):
        CheckpointManager(tmp_path / "out").load()


def test_leftovers_of_a_killed_save_are_ignored(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "ckpt-000005.pt.part").write_text("half")
    (folder / "ckpt.pt.part").write_text("half")

    assert loaded(folder) == ("ckpt-000004.pt", 40) and warnings(caplog) == []


def test_a_file_without_manifest_is_reported_and_its_number_not_reused(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "ckpt-000005.pt").write_text("complete, but its manifest was not written")

    assert loaded(folder) == ("ckpt-000004.pt", 40)
    assert "ckpt-000005.pt has no manifest" in warnings(caplog)[0]
    manager = CheckpointManager(folder)
    save(manager, 60)
    assert loaded(folder) == ("ckpt-000006.pt", 60) and not (folder / "ckpt-000005.pt").exists()


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the name of every file is added whose content is read for its checksum."""
    read: list[str] = []
    sha256 = files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: read.append(path.name) or sha256(path))
    return read


def test_a_file_with_two_names_is_read_once(folder: Path, read: list[str]) -> None:
    linked = os.path.samefile(folder / "ckpt.pt", folder / "ckpt-000004.pt")

    CheckpointManager(folder).load()

    assert len(read) == (1 if linked else 2)


def test_a_file_without_manifest_is_not_read_if_its_size_is_not_ckpt_pts(folder: Path, read: list[str]) -> None:
    torch.save(content(45, run=None), folder / "ckpt.pt")
    (folder / "ckpt-000005.pt").write_text("complete, but its manifest was not written")

    CheckpointManager(folder).load()

    assert "ckpt-000005.pt" not in read
