"""Completion of commands, presets, options and files in a shell."""

import argparse
import re
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from core.commands import argument_parser
from core.errors import ConfigError, print_and_exit

SHELLS = ("bash", "zsh", "tcsh", "fish")
DESCRIPTION = """\
Prints what makes a shell complete commands, presets, options and files.

    coregpt completion bash > ~/.local/share/bash-completion/completions/coregpt
    coregpt completion zsh > ~/.zfunc/_coregpt        # with `fpath+=~/.zfunc` in ~/.zshrc
    coregpt completion fish > ~/.config/fish/completions/coregpt.fish"""

# Readline splits `--key=value` at the `=`. These words are put back as `--key value`, which shtab's function knows
BASH_EQUALS = """
_coregpt() {
  local -a words=()
  local i position=$COMP_CWORD
  for i in "${!COMP_WORDS[@]}"; do
    if [[ "${COMP_WORDS[i]}" != "=" ]]; then
      words+=("${COMP_WORDS[i]}")
    elif (( i == COMP_CWORD )); then
      words+=("")
    elif (( i < COMP_CWORD )); then
      (( position -= 1 ))
    fi
  done
  COMP_WORDS=("${words[@]}")
  COMP_CWORD=$position
  _shtab_coregpt
}
complete -o bashdefault -F _coregpt coregpt
"""


def main(argv: Sequence[str]) -> None:
    """Print the script for the shell that the command line names. Raises ConfigError without shtab."""
    parser = argument_parser("coregpt/completion.py", DESCRIPTION)
    parser.add_argument("shell", choices=SHELLS)
    shell = parser.parse_args(argv).shell
    try:
        import shtab
    except ImportError:
        raise ConfigError("completion needs shtab: pip install shtab") from None
    script = shtab.complete(_parser(shtab.FILE, shtab.DIRECTORY), shell)
    if shell == "bash":
        script += BASH_EQUALS
    if shell == "zsh":  # `--key=[` is its form for an option that takes both `--key=value` and `--key value`
        script = re.sub(r'^( +"--\w+)(\[.*\]:)', r"\1=\2", script, flags=re.MULTILINE)
    print_and_exit(script)


def _parser(file: dict[str, Any], folder: dict[str, Any]) -> argparse.ArgumentParser:
    """Return a parser that knows all commands and options. It is not what reads them: presets are files there.

    file, folder: how each shell completes these
    """
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
        if name == "completion":
            command.add_argument("shell", choices=SHELLS)
        elif schema := schemas.get(name):
            config = command.add_argument("config", nargs="*", help="preset or config file")
            config.complete = _preset_or_file(list(presets()))  # type: ignore[attr-defined]
            for option, field in schema.model_fields.items():
                meaning = str(field.description).replace("%", "%%")
                action = command.add_argument(f"--{option}", choices=_choices(field.annotation), help=meaning)
                if option.endswith(("_dir", "_file", "checkpoint")):
                    action.complete = folder if option.endswith("_dir") else file  # type: ignore[attr-defined]
        else:
            command.add_argument("files", nargs="*").complete = file  # type: ignore[attr-defined]
    return parser


def _choices(kind: object) -> list[str] | None:
    if kind is bool:
        return ["True", "False"]
    return [str(choice) for choice in get_args(kind)] if get_origin(kind) is Literal else None


def _preset_or_file(presets: Sequence[str]) -> dict[str, Any]:
    """Return how each shell completes a preset or a file."""
    names = " ".join(presets)
    bash = f'_coregpt_preset_or_file() {{\n  compgen -W "{names}" -- "$1"\n  compgen -f -- "$1"\n}}'
    zsh = f"_coregpt_preset_or_file() {{\n  compadd {names}\n  _files\n}}"
    return {
        "bash": "_coregpt_preset_or_file",
        "zsh": "_coregpt_preset_or_file",
        "tcsh": f"({names})",
        "fish": f"{names} (__fish_complete_path (commandline -ct))",
        "preamble": {"bash": bash, "zsh": zsh},
    }
