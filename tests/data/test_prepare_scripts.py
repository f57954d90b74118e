"""Which script makes a data set, by which command, and where it writes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from core import commands
from data.prepare_scripts import SCRIPTS, STREAM, is_ours, output_folder, prepare_command, script_for


@pytest.fixture
def installed() -> Iterator[None]:
    commands.enter_by("coregpt")
    yield
    commands._entrance = None


def test_a_script_in_the_folder_is_found_first(run_dir: Path) -> None:
    folder = Path("data/shakespeare_char")
    assert script_for(folder) == SCRIPTS / "shakespeare_char/prepare.py"
    folder.mkdir()
    (folder / "prepare.py").touch()

    assert script_for(folder) == folder / "prepare.py"
    assert prepare_command(folder) == "python data/shakespeare_char/prepare.py"


def test_a_folder_elsewhere_or_of_another_name_has_no_script_of_ours(run_dir: Path) -> None:
    for folder in ("elsewhere/shakespeare_char", "data/mine", "data/dual_mode"):
        assert script_for(Path(folder)) is None and prepare_command(Path(folder)) is None
    # a program of a checkout that is run from another folder: its own script, by the path that exists
    script = SCRIPTS / "dual_mode/prepare_streaming.py"
    assert prepare_command(Path("data/dual_mode"), STREAM) == f"python {script}"


@pytest.mark.parametrize("name", ["mine", "shakespeare_char"])
def test_a_script_of_the_user_is_run_by_its_path(run_dir: Path, installed: None, name: str) -> None:
    folder = Path("data", name)
    folder.mkdir()
    (folder / "prepare.py").touch()

    assert not is_ours(folder / "prepare.py") and is_ours(SCRIPTS / "text" / "prepare.py")
    assert prepare_command(folder) == f"python data/{name}/prepare.py"
    assert prepare_command(Path("data/text")) == "coregpt prepare text"


def test_data_sets_lie_next_to_their_script_or_in_the_current_data(installed: None) -> None:
    script = str(SCRIPTS / "text" / "prepare.py")

    assert output_folder(script) == Path("data/text")
    commands._entrance = None
    assert output_folder(script) == SCRIPTS / "text"
