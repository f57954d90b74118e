"""CheckpointManager: commits, interrupted saves, background saves, retention, files of other programs."""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from core import files
from core.checkpoint.manager import CheckpointManager
from core.checkpoint.run_folder import CONFIG_MARK
from core.errors import CheckpointError

ROOT = Path(__file__).resolve().parents[3]


def notes(iter_num: int = 0, val_loss: float | None = None, healthy: bool = True) -> dict[str, Any]:
    return {"iter_num": iter_num, "val_loss": val_loss, "healthy": healthy}


def text(content: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(content)

    return write


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def kept(folder: Path) -> list[int]:
    """Return the numbers of a folder's checkpoints; each must have both its content and its manifest."""
    contents = {path.stem for path in folder.glob("ckpt-*.pt")}
    assert contents == {path.stem for path in folder.glob("ckpt-*.json")}
    return sorted(int(stem.removeprefix("ckpt-")) for stem in contents)


def nanogpts(folder: Path, iter_num: int = 5) -> Path:
    torch.save({"model": {"w": torch.ones(3)}, "model_args": {}, "iter_num": iter_num}, folder / "ckpt.pt")
    return folder / "ckpt.pt"


class Killed(BaseException):
    """Raised where the process would be killed."""


class Unreliable:
    """Replaces `os`: disk operation `fail_at` fails, or the process is killed before or after it."""

    OPERATIONS = ("makedirs", "open", "fsync", "replace", "rename", "link", "unlink")

    def __init__(self, fail_at: int, how: str) -> None:
        self.calls = 0
        self.fail_at = fail_at
        self.how = how

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in self.OPERATIONS:
            return real

        def operation(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.how == "error" and self.calls == self.fail_at:
                raise OSError(errno.EIO, "Input/output error")
            if self.how == "killed before" and self.calls >= self.fail_at:
                raise Killed
            if self.how == "killed after" and self.calls > self.fail_at:
                raise Killed
            result = real(*args, **kwargs)
            if self.how == "killed after" and self.calls == self.fail_at:
                raise Killed
            return result

        return operation


# a save


def test_a_save_makes_a_numbered_file_its_manifest_and_nanogpts_name(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path / "runs" / "out")
    for number, content in ((1, "first"), (2, "second")):
        path = manager.save(text(content), notes(number) | {"run": "R"})
        latest = manager.load()

        assert path == latest.path == tmp_path / "runs" / "out" / f"ckpt-00000{number}.pt"
        assert latest.manifest and latest.manifest["iter_num"] == number and latest.manifest["run"] == "R"
        assert path.read_text() == content and os.path.samefile(path, manager.path)
    assert names(tmp_path / "runs" / "out") == [
        "ckpt-000001.json", "ckpt-000001.pt", "ckpt-000002.json", "ckpt-000002.pt", "ckpt.pt"
    ]  # fmt: skip


def test_a_manager_makes_no_file_before_its_first_save(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path / "out")
    with pytest.raises(CheckpointError):
        manager.load()

    assert names(tmp_path) == [] and manager.load_healthy() is None and manager.join() is None


def test_content_manifest_and_link_are_written_and_flushed_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    flush, replace = files._flush, os.replace

    def recording_flush(path: Path) -> None:
        steps.append(f"flush {path.name}")
        flush(path)

    def recording_replace(source: Path, target: Path) -> None:
        steps.append(f"name {target.name}")
        replace(source, target)

    monkeypatch.setattr(files, "_flush", recording_flush)
    monkeypatch.setattr(files.os, "replace", recording_replace)

    CheckpointManager(tmp_path).save(text("x"), notes())

    folder = f"flush {tmp_path.name}"
    assert steps == [
        "flush ckpt-000001.pt.part", "name ckpt-000001.pt", folder,
        "flush ckpt-000001.json.part", "name ckpt-000001.json", folder,
        "name ckpt.pt", folder,
    ]  # fmt: skip


def test_without_link_ckpt_pt_is_not_changed(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    manager.save(text("one"), notes())
    manager.save(text("two"), notes(), link=False)

    assert manager.path.read_text() == "one" and manager.load().path.read_text() == "two"


def test_notes_that_change_afterwards_do_not_change_the_manifest(tmp_path: Path) -> None:
    manager, given = CheckpointManager(tmp_path), notes(3)

    def write(path: Path) -> None:
        given["iter_num"] = 4
        path.write_text("x")

    manager.save(write, given)

    assert (manager.load().manifest or {})["iter_num"] == 3


def test_a_removed_folder_is_made_again_and_numbers_continue(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path / "out")
    manager.save(text("x"), notes())
    files.remove(tmp_path / "out")

    assert manager.save(text("y"), notes()) == tmp_path / "out" / "ckpt-000002.pt"


def test_messages_name_the_folder_as_the_user_wrote_it() -> None:
    assert CheckpointManager("./out//").out_dir == "./out//"


def folder(path: Path) -> None:
    """Write a checkpoint that is a folder."""
    path.mkdir()
    (path / "options.yaml").write_text(CONFIG_MARK)


def test_a_checkpoint_folder_is_kept_like_a_file_but_not_linked(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last=1, keep_best=0)
    for iter_num in (4, 8):
        manager.save(folder, notes(iter_num), suffix="")

    assert names(tmp_path) == ["checkpoint-8", "ckpt-000002.json"] and manager.load().path.name == "checkpoint-8"
    (tmp_path / "checkpoint-8" / "options.yaml").write_text(f"{CONFIG_MARK}?")
    with pytest.raises(CheckpointError, match="checkpoint-8 .*its manifest says"):
        manager.load()


def test_a_folder_of_the_same_iteration_gets_a_name_of_its_own(tmp_path: Path) -> None:
    """After a rollback, or next to a folder of another trainer, which stays."""
    (tmp_path / "checkpoint-3").mkdir()
    manager = CheckpointManager(tmp_path, keep_last=2, keep_best=0)
    for _ in range(3):
        manager.save(folder, notes(3), suffix="")

    folders = ["checkpoint-3", "checkpoint-3-2", "checkpoint-3-3", "checkpoint-3-4"]
    assert [name for name in names(tmp_path) if "json" not in name] == [folders[0], *folders[2:]]
    assert manager.load().path.name == "checkpoint-3-4"


@pytest.mark.parametrize("ending", ["", ".part"])
def test_a_folder_whose_save_was_cut_short_is_reported_and_removed(
    tmp_path: Path, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    manager = CheckpointManager(tmp_path, keep_last=2)
    manager.save(folder, notes(1), suffix="")
    folder(tmp_path / f"checkpoint-2{ending}")

    assert manager.load().path.name == "checkpoint-1"
    assert ("checkpoint-2 has no manifest: its save was cut short" in caplog.text) is (ending == "")
    manager.save(folder, notes(2), suffix="")
    assert [name for name in names(tmp_path) if "json" not in name] in (
        [["checkpoint-1", "checkpoint-2"], ["checkpoint-1", "checkpoint-2-2"]][ending == ""],
    )


def test_the_best_folder_stays_and_a_damaged_one_goes(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last=1, keep_best=1)
    for iter_num, loss in ((1, 3.0), (2, 1.0), (3, 2.0)):
        manager.save(folder, notes(iter_num, loss), suffix="")
    assert manager.load_best().path.name == "checkpoint-2"
    (tmp_path / "checkpoint-2" / "options.yaml").unlink()
    manager.save(folder, notes(4, 5.0), suffix="")

    assert not any("checkpoint-2" in name for name in names(tmp_path) if (tmp_path / name / "options.yaml").exists())
    assert manager.load_best().path.name in ("checkpoint-3", "checkpoint-4")


def test_another_metric_decides_which_is_best(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last=1, keep_best=1)
    for iter_num, value in enumerate((2.0, 7.0, None, 3.0)):
        metric = {"best_metric": {"name": "val/bleu", "mode": "max", "value": value}}
        manager.save(text("x"), {**notes(iter_num, 1.0 + iter_num), **metric})

    assert kept(tmp_path) == [2, 4]
    assert manager.load_best().path.name == "ckpt-000002.pt"


# interrupted saves


def crash_points(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    for number in range(1, 100):
        yield tmp_path / str(number), number


@pytest.mark.parametrize("how", ["error", "killed before", "killed after"])
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize("links", [True, False])
def test_an_interrupted_save_keeps_the_newest_committed_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, background: bool, foreign: bool, links: bool
) -> None:
    """Save three times with a fault at each disk operation of the last save in turn; then load as another process."""
    points = 0
    for folder, number in crash_points(tmp_path):
        folder.mkdir()
        if foreign:
            nanogpts(folder)
        manager = CheckpointManager(folder, keep_last=1)
        manager.save(text("1"), notes(1, 1.0), link=not foreign)
        manager.save(text("2"), notes(2, 2.0, healthy=False), link=False)
        disk = Unreliable(number, how)
        with monkeypatch.context() as patch:
            if not links:
                disk.link = _no_link  # type: ignore[attr-defined]
            patch.setattr(files, "os", disk)
            done = False
            try:
                manager.save(text("3"), notes(3, 3.0, healthy=False), wait=not background)
                manager.join()
                done = True
            except (OSError, Killed):
                pass
        committed = (folder / "ckpt-000003.json").exists()
        other = CheckpointManager(folder)

        assert other.load().path.read_text() == ("3" if committed else "2")
        assert (healthy := other.load_healthy()) and healthy.path.read_text() == "1"
        assert committed or not done
        if foreign:
            theirs = folder / "ckpt.pt.foreign"
            assert torch.load(theirs if theirs.exists() else folder / "ckpt.pt", weights_only=True)["iter_num"] == 5
        elif (folder / "ckpt.pt").exists():
            assert (folder / "ckpt.pt").read_text() in ("1", "3")
        if how == "error" and not committed:
            assert not [name for name in names(folder) if "000003" in name or name.endswith(".part")]
        number_next = int((other.save(text("4"), notes(4)) or Path()).stem.removeprefix("ckpt-"))
        assert number_next >= 3 + committed and other.load().path.read_text() == "4"
        assert set(kept(folder)) >= {1, number_next}
        assert not [name for name in names(folder) if name.endswith(".part")]
        points = number
        if disk.calls < number:
            break
    assert points > 10


def _no_link(*_: object) -> None:
    raise OSError(errno.ENOTSUP, "Operation not supported")


@pytest.mark.parametrize("error", [OSError("full"), RuntimeError("in torch.save"), KeyboardInterrupt()])
def test_an_error_of_write_propagates_and_leaves_no_file(tmp_path: Path, error: BaseException) -> None:
    manager = CheckpointManager(tmp_path)
    manager.save(text("old"), notes())
    before = names(tmp_path)

    def write(path: Path) -> None:
        path.write_text("ne")
        raise error

    with pytest.raises(type(error)):
        manager.save(write, notes())

    assert names(tmp_path) == before and manager.load().path.read_text() == "old"


def test_saves_that_fail_on_a_full_disk_leave_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if target.suffix == ".json":
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    manager = CheckpointManager(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", full)
        for _ in range(3):
            with pytest.raises(OSError, match="No space"):
                manager.save(text("x"), notes())

    assert names(tmp_path) == []
    assert manager.save(text("x"), notes()) == tmp_path / "ckpt-000004.pt"


# in the background


def test_a_save_in_the_background_makes_the_same_files(tmp_path: Path) -> None:
    foreground, background = CheckpointManager(tmp_path / "a"), CheckpointManager(tmp_path / "b")
    for number in (1, 2, 3, 4):
        foreground.save(text(str(number)), notes(number))

        assert background.save(text(str(number)), notes(number), wait=False) is None
        assert background.join() == background.folder / f"ckpt-00000{number}.pt" and background.join() is None
    managers = foreground, background
    contents = [{path.name: path.read_bytes() for path in manager.folder.iterdir()} for manager in managers]
    assert contents[0] == contents[1]


def test_one_save_at_a_time_is_in_flight_and_a_load_waits_for_it(tmp_path: Path) -> None:
    manager, may_go, written = CheckpointManager(tmp_path), threading.Event(), []

    def slow(path: Path) -> None:
        may_go.wait(5)
        written.append(path.name)
        path.write_text("slow")

    manager.save(slow, notes(), wait=False)
    assert not written  # `save` returned before anything was written
    threading.Timer(0.05, may_go.set).start()

    def quick(path: Path) -> None:
        written.append(path.name)
        path.write_text("next")

    manager.save(quick, notes(), wait=False)

    assert manager.load().path.read_text() == "next"
    assert written == ["ckpt-000001.pt.part", "ckpt-000002.pt.part"]


def test_a_failure_in_the_background_is_raised_once_by_join(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)

    def fail(path: Path) -> None:
        raise OSError("disk failed")

    manager.save(fail, notes(), wait=False)
    with pytest.raises(OSError, match="disk failed"):
        manager.join()

    assert manager.join() is None


@pytest.mark.parametrize("is_empty", [True, False])
def test_a_folder_that_goes_away_is_said_once_and_made_again(
    is_empty: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Removed or renamed it is gone; unmounted it is empty."""
    manager = CheckpointManager(tmp_path / "out")
    for number in range(3):
        manager.save(text("x"), notes())
        (tmp_path / "out").rename(tmp_path / f"gone-{number}")
        if is_empty:
            (tmp_path / "out").mkdir()
    path = manager.save(text("y"), notes())

    assert path is not None and path.read_text() == "y" and path == manager.load().path
    assert caplog.messages == [
        f"{tmp_path}/out: the folder was removed, renamed or unmounted, with the checkpoints of this run: it is "
        "made again"
    ]


def test_a_first_save_that_failed_says_nothing_about_the_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manager = CheckpointManager(tmp_path / "out")

    def fail(path: Path) -> None:
        raise OSError("disk failed")

    with pytest.raises(OSError, match="disk failed"):
        manager.save(fail, notes())
    manager.save(text("x"), notes())

    assert caplog.messages == []


@pytest.mark.parametrize("wait", [True, False])
def test_a_save_is_made_after_a_background_save_that_failed(
    tmp_path: Path, wait: bool, caplog: pytest.LogCaptureFixture
) -> None:
    manager = CheckpointManager(tmp_path)

    def fail(path: Path) -> None:
        raise OSError("disk failed")

    manager.save(fail, notes(), wait=False)
    manager.save(text("x"), notes(), wait=wait)

    assert manager.load().path.read_text() == "x"
    assert "the previous checkpoint could not be saved (OSError: disk failed)" in caplog.text


def test_the_end_of_the_program_waits_for_a_save_in_flight(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib; from core.checkpoint.manager import CheckpointManager\n"
        "def slow(path): time.sleep(0.3); path.write_text('complete')\n"
        "CheckpointManager(sys.argv[1]).save(slow, dict(iter_num=1, val_loss=None, healthy=True), wait=False)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True)

    assert CheckpointManager(tmp_path).load().path.read_text() == "complete"


# retention


def test_the_last_best_linked_and_newest_healthy_checkpoints_are_kept(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last=2, keep_best=1)
    manager.save(text("1"), notes(1, 9.0))
    manager.save(text("2"), notes(2, 1.0), link=False)
    manager.save(text("3"), notes(3, 5.0), link=False)
    for number in (4, 5, 6, 7):
        manager.save(text(str(number)), notes(number, 5.0, healthy=False), link=False)

    assert kept(tmp_path) == [1, 2, 3, 6, 7]
    manager.save(text("8"), notes(8, 1.5))
    assert kept(tmp_path) == [2, 7, 8]


def test_the_checkpoint_that_ckpt_pt_is_a_copy_of_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.os, "link", _no_link)
    CheckpointManager(tmp_path).save(text("1"), notes())
    for number in (2, 3, 4):  # as in a new process each time
        CheckpointManager(tmp_path, keep_last=1, keep_best=0).save(text(str(number)), notes(), link=False)

    assert kept(tmp_path) == [1, 4]
    assert CheckpointManager(tmp_path).load().path.read_text() == "4"


def test_leftovers_and_damaged_checkpoints_are_removed_and_not_counted(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last=2, keep_best=0)
    for number in (1, 2, 3):
        manager.save(text(str(number)), notes(number))
    for name in ("ckpt-000002.json.part", "ckpt-000004.pt", "ckpt-000005.pt.part", "ckpt.pt.part"):
        (tmp_path / name).write_text("left behind")
    others = ("ckpt-best.pt", "ckpt-7.pt", "notes.json", "ckpt.pt.foreign")
    for name in others:
        (tmp_path / name).write_text("not ours")
    (tmp_path / "ckpt-000003.pt").write_text("!")
    manager = CheckpointManager(tmp_path, keep_last=2, keep_best=0)
    assert manager.load().path.read_text() == "2"

    assert manager.save(text("6"), notes(6)) == tmp_path / "ckpt-000006.pt"

    for name in others:
        (tmp_path / name).unlink()
    files.remove(tmp_path / "ckpt.pt.foreign-2")  # the damaged checkpoint was also `ckpt.pt`
    assert kept(tmp_path) == [2, 6] and not [name for name in names(tmp_path) if name.endswith(".part")]


def test_a_checkpoint_without_content_is_not_counted(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last=2, keep_best=0)
    for number in (1, 2):
        manager.save(text(str(number)), notes(number), link=False)
    (tmp_path / "ckpt-000002.pt").unlink()
    manager.save(text("3"), notes(3), link=False)

    assert kept(tmp_path) == [1, 3]


def test_a_file_that_cannot_be_removed_is_logged_once_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    manager = CheckpointManager(tmp_path, keep_last=1, keep_best=0)
    manager.save(text("1"), notes())
    unlink = os.unlink

    def read_only(path: Path) -> None:
        if Path(path).suffix == ".json":
            raise OSError(errno.EROFS, "Read-only file system")
        unlink(path)

    monkeypatch.setattr(files.os, "unlink", read_only)
    for number in (2, 3):
        manager.save(text(str(number)), notes())

    assert 1 in kept(tmp_path)  # no manifest is left without its content
    assert len([text for text in caplog.messages if "ckpt-000001.json cannot be removed" in text]) == 1


# files of other programs


@pytest.mark.parametrize("loads", [True, False])
def test_another_programs_ckpt_pt_is_renamed_and_not_lost(tmp_path: Path, loads: bool) -> None:
    for number in (1, 2):
        (tmp_path / "ckpt.pt").unlink(missing_ok=True)
        theirs = nanogpts(tmp_path, number).read_bytes()
        manager = CheckpointManager(tmp_path)
        if loads:
            manager.load()
        manager.save(text(f"ours {number}"), notes())

        assert (tmp_path / f"ckpt.pt.foreign{'-2' if number == 2 else ''}").read_bytes() == theirs
        assert manager.path.read_text() == f"ours {number}"


def test_a_file_that_another_program_wrote_through_the_link_is_not_lost(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last=1, keep_best=0)
    manager.save(text("ours"), notes())
    theirs = nanogpts(tmp_path).read_bytes()
    for number in (2, 3):
        manager.save(text(str(number)), notes())

    assert (tmp_path / "ckpt.pt.foreign").read_bytes() == theirs and kept(tmp_path) == [3]


def test_a_ckpt_pt_that_was_removed_is_made_again(tmp_path: Path) -> None:
    nanogpts(tmp_path)
    manager = CheckpointManager(tmp_path)
    manager.load()
    manager.path.unlink()
    manager.save(text("ours"), notes())

    assert manager.path.read_text() == "ours"


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_a_ckpt_pt_that_is_no_file_is_not_written_through(tmp_path: Path, kind: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("not ours")
    if kind == "link":
        (tmp_path / "ckpt.pt").symlink_to(elsewhere)
    else:
        (tmp_path / "ckpt.pt").mkdir()
    manager = CheckpointManager(tmp_path)
    manager.save(text("ours"), notes())

    assert elsewhere.read_text() == "not ours" and manager.path.read_text() == "ours"
    assert not manager.path.is_symlink() and os.path.lexists(tmp_path / "ckpt.pt.foreign")


def test_relink_makes_a_link_that_a_kill_prevented(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    manager.save(text("1"), notes())
    manager.save(text("2"), notes())
    manager.path.unlink()
    os.link(tmp_path / "ckpt-000001.pt", manager.path)
    manager.relink(manager.load())
    assert manager.path.read_text() == "2"

    manager.save(text("3"), notes(), link=False)
    manager.relink(manager.load())
    assert manager.path.read_text() == "2"


def test_the_healthy_checkpoint_is_verified_before_others_are_removed(tmp_path: Path) -> None:
    """The newest healthy checkpoint is damaged and not verified yet: the previous one has to be kept."""
    manager = CheckpointManager(tmp_path, keep_last=3, keep_best=0)
    for number, healthy in ((1, True), (2, True), (3, False)):
        manager.save(text("good"), notes(number, healthy=healthy), link=False)
    (tmp_path / "ckpt-000002.pt").write_text("bad!")  # of the same size

    new_manager = CheckpointManager(tmp_path, keep_last=1, keep_best=0)
    new_manager.load()
    new_manager.save(text("good"), notes(4, healthy=False), link=False)

    healthy = CheckpointManager(tmp_path).load_healthy()
    assert healthy is not None and healthy.path.name == "ckpt-000001.pt"


def test_the_number_of_a_removed_file_without_manifest_is_counted_again(tmp_path: Path) -> None:
    """The file without a manifest is removed, and the next save uses its number."""
    manager = CheckpointManager(tmp_path, keep_last=1, keep_best=0)
    manager.save(text("good"), notes(1), link=False)
    without_manifest = tmp_path / "ckpt-000002.pt"
    without_manifest.write_text("no manifest")
    new_manager = CheckpointManager(tmp_path, keep_last=1, keep_best=0)
    new_manager.load()
    without_manifest.unlink()

    new_manager.save(text("good"), notes(2), link=False)
    new_manager.save(text("good"), notes(3, healthy=False), link=False)

    assert kept(tmp_path) == [2, 3]


def test_a_checkpoint_under_another_programs_name_is_named(tmp_path: Path) -> None:
    for name in ("model_00010.pt", "last.ckpt", "log.txt", "ckpt-000002.pt.part"):
        (tmp_path / name).touch()

    with pytest.raises(CheckpointError, match=r"; it has last\.ckpt, model_00010\.pt: copy .* to ckpt\.pt$"):
        CheckpointManager(tmp_path).load()


@pytest.mark.parametrize("faulty", [False, True])
def test_the_error_for_files_of_older_programs_names_the_converter(tmp_path: Path, faulty: bool) -> None:
    if faulty:
        (tmp_path / "ckpt.pt").write_text("damaged")
    (tmp_path / "ckpt_best.pt").touch()
    with pytest.raises(CheckpointError) as error:
        CheckpointManager(tmp_path).load()
    assert "tools.convert" not in str(error.value)

    (tmp_path / "ckpt_MLM_300.pt").touch()
    with pytest.raises(CheckpointError, match=rf"ckpt_MLM_300\.pt .* `python -m tools\.convert {tmp_path}`"):
        CheckpointManager(tmp_path).load()
