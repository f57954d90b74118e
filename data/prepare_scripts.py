"""The scripts that make data sets, and the commands that run them."""

from pathlib import Path

from core.commands import command, is_run_by_path, script_command

PREPARE, STREAM = "prepare.py", "prepare_streaming.py"
SCRIPTS = Path(__file__).resolve().parent  # a folder for each data set that comes with the program


def script_for(folder: Path, name: str = PREPARE) -> Path | None:
    """Return the script that makes a data set: in its folder, or with the program for one in the current `data/`."""
    own, ours = folder / name, SCRIPTS / folder.name / name
    if own.exists():
        return own
    return ours if folder == Path("data", folder.name) and ours.exists() else None


def prepare_command(folder: Path, name: str = PREPARE) -> str | None:
    """Return the command that makes a data set; None if it has no script."""
    script = script_for(folder, name)
    if script is None:
        return None
    is_elsewhere = is_run_by_path() and not (folder / name).exists()  # a program of a checkout, run from another folder
    return script_command(script) if is_elsewhere or not is_ours(script) else command(str(folder / name))


def is_ours(script: Path) -> bool:
    """Return whether a script comes with the program."""
    return script.resolve().parent.parent == SCRIPTS


def output_folder(script: str) -> Path:
    """Return where a script writes its data set: its own folder, or for `coregpt prepare` one in the current `data/`.

    script: its `__file__`
    """
    folder = Path(script).resolve().parent
    return folder if is_run_by_path() else Path("data", folder.name)
