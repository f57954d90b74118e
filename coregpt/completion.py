"""Completion of commands, presets and options in a shell."""

import argparse
from collections.abc import Sequence
from typing import Literal, get_args, get_origin

from core.commands import argument_parser
from core.errors import ConfigError, print_and_exit

SHELLS = ("bash", "zsh", "tcsh", "fish")
DESCRIPTION = """\
Prints what makes a shell complete commands, presets and options.

    coregpt completion bash > ~/.local/share/bash-completion/completions/coregpt
    coregpt completion zsh > ~/.zfunc/_coregpt        # with `fpath+=~/.zfunc` in ~/.zshrc
    coregpt completion fish > ~/.config/fish/completions/coregpt.fish"""


def main(argv: Sequence[str]) -> None:
    """Print the script for the shell that the command line names. Raises ConfigError without shtab."""
    parser = argument_parser("coregpt/completion.py", DESCRIPTION)
    parser.add_argument("shell", choices=SHELLS)
    shell = parser.parse_args(argv).shell
    try:
        import shtab
    except ImportError:
        raise ConfigError("completion needs shtab: pip install shtab") from None
    print_and_exit(shtab.complete(_parser(), shell))


def _parser() -> argparse.ArgumentParser:
    """Return a parser that knows all commands and options. It is not what reads them: presets are files there."""
    from config.options import Options, SampleOptions
    from config.schema import Schema
    from coregpt.command_line import PROGRAMS
    from coregpt.presets import presets
    from data.prepare_scripts import SCRIPTS

    schemas: dict[str, type[Schema]] = {"train": Options, "sample": SampleOptions}
    parser = argparse.ArgumentParser(prog="coregpt")
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers()
    for name, program in PROGRAMS.items():
        command = commands.add_parser(name, help=program.meaning)
        if name.startswith("prepare"):
            known = sorted(path.parent.name for path in SCRIPTS.glob(f"*/{name}.py"))
            command.add_argument("name", choices=known, help="data set")
        elif name == "completion":
            command.add_argument("shell", choices=SHELLS)
        elif schema := schemas.get(name):
            command.add_argument("config", nargs="*", choices=list(presets()), help="preset or config file")
            for option, field in schema.model_fields.items():
                meaning = str(field.description).replace("%", "%%")
                command.add_argument(f"--{option}", choices=_choices(field.annotation), help=meaning)
    return parser


def _choices(kind: object) -> list[str] | None:
    if kind is bool:
        return ["True", "False"]
    return [str(choice) for choice in get_args(kind)] if get_origin(kind) is Literal else None
