"""How the user starts our programs: the commands that messages suggest."""

import argparse
import os
import re
import sys
from pathlib import Path

# the tree of an installed `coregpt` lies in a package of that name, and only that command starts its programs
_entrance: str | None = "coregpt" if __name__.startswith("coregpt.") else None


def enter_by(entrance: str) -> None:
    """Let all further commands begin with `entrance`: `coregpt`, or `python -m coregpt`."""
    global _entrance
    _entrance = entrance


def is_run_by_path() -> bool:
    """Return whether the user has started a program of a checkout by its path, and not by the command `coregpt`."""
    return _entrance is None


def command(program: str, launcher: str = "") -> str:
    """Return how the user starts a program, by the way in which they started this one.

    program:  its path in the checkout: `train.py`, `tools/curve.py`, `data/text/prepare.py`
    launcher: what starts it in several processes, such as `torchrun --nproc_per_node=2`, in place of Python

    In a checkout this is `python train.py` or `python -m tools.curve`; with the command `coregpt` it is
    `coregpt train`, `coregpt curve` or `coregpt prepare text`.
    """
    path = Path(program)
    if _entrance:
        words = [path.stem, path.parent.name] if path.stem.startswith("prepare") else [path.stem]
        start = f"{launcher} -m coregpt" if launcher else _entrance
        return " ".join([start, *words])
    start = launcher or _python()
    if path.parent.name == "tools":
        return f"{start} -m tools.{path.stem}"
    return f"{start} {program}"


def script_command(script: Path) -> str:
    """Return how the user starts a script of their own, by its path."""
    return f"{_python()} {script}"


def argument_parser(program: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of a program with this path; its help shows the description with the commands of the user."""
    return argparse.ArgumentParser(
        prog=command(program),
        description=as_typed(description or ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def as_typed(text: str) -> str:
    """Return a text in which each command of the checkout, such as `python -m tools.curve`, is as `command` has it."""
    text = re.sub(r"python -m tools\.(\w+)", lambda found: command(f"tools/{found[1]}.py"), text)
    return re.sub(r"python ((?:\w+/)*\w+\.py)", lambda found: command(found[1]), text)


def _python() -> str:
    """Return `python`, or the path of that of an environment in the current folder that is not active."""
    python, here = Path(sys.executable), Path.cwd()
    is_active = "VIRTUAL_ENV" in os.environ
    return str(python.relative_to(here)) if python.is_relative_to(here) and not is_active else "python"


def install_command(extra: str) -> str:
    """Return how the user installs the packages of an optional feature, by the name of its extra."""
    return f"pip install 'coregpt[{extra}]'" if __name__.startswith("coregpt.") else f"pip install -e '.[{extra}]'"
