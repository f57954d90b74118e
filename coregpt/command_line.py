"""The command `coregpt`: what it can do, and which program does it. Nothing here waits for torch."""

import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from core import commands
from core.errors import ConfigError, exit_on_error, print_and_exit

TREE = commands.__name__.removesuffix("core.commands")  # in front of module names: `coregpt._tree.`, or nothing


class Program(NamedTuple):
    """One of our programs: the module whose `main(argv)` it is, and what it does."""

    module: str
    meaning: str


PROGRAMS = {
    "train": Program("train", "train a model, from a preset, config files and options"),
    "sample": Program("sample", "write text with a trained model, or fill masks, label or score it"),
    "prepare": Program("data", "make a data set: of your own text, or one that comes along"),
    "prepare_streaming": Program("data", "fill a data set's queue of batches"),
    "curve": Program("tools.curve", "draw the losses of runs"),
    "run_hash": Program("tools.run_hash", "one hash of everything that a run has computed"),
    "masking_report": Program("tools.masking_report", "show which tokens a config masks"),
    "objective_report": Program("tools.objective_report", "show what a trained model has learnt of its objective"),
    "export": Program("tools.export", "write a trained model as a folder of the transformers package"),
    "merge_lora": Program("tools.merge_lora", "merge an adapter (LoRA) into the model that it was trained on"),
    "convert": Program("tools.convert", "convert a checkpoint of the train_run or the core line"),
    "presets": Program("coregpt.presets", "list the presets"),
    "completion": Program("coregpt.completion", "print the completion of options for a shell"),
}
CONFIGURED = ("train", "sample")  # their arguments are presets, files and options
TAKE_CONFIGS = ("prepare_streaming", "masking_report")  # these have other arguments as well
EXAMPLES = """\
  {0} train quickstart                     learns Python's own source, on any laptop
  {0} sample --out_dir=out-quickstart
  {0} train quickstart --dataset=notes.txt --out_dir=out-notes
  {0} train my_config.py --batch_size=8 --compile False
  {0} train --help model                   the options of one section
  torchrun --nproc_per_node=2 -m coregpt train train_shakespeare_char"""


def main(entrance: str = "coregpt", argv: Sequence[str] | None = None) -> None:
    """Run the program that the command line names. entrance: how the user started it"""
    commands.enter_by(entrance)
    first, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    with exit_on_error(outlives_stdout=first == "train"):
        if first in ("--help", "-h", "help"):
            print_and_exit(_help(entrance))
        if first == "--version":
            print_and_exit(f"coregpt {_version()}")
        _run(first.replace("-", "_"), rest)


def _run(name: str, argv: list[str]) -> None:
    """Run a program. Raises ConfigError for a name that is none."""
    if name not in PROGRAMS:
        near = difflib.get_close_matches(name, PROGRAMS, n=1)
        hint = f", did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{name!r} is no command of coregpt{hint} (coregpt --help lists them)")
    if name.startswith("prepare"):
        module, argv = _prepare_script(name, argv)
    else:
        module = PROGRAMS[name].module
    if name in CONFIGURED:
        from coregpt.arguments import read_arguments

        argv = read_arguments(name, argv)
    if name in TAKE_CONFIGS:
        from coregpt.presets import with_presets

        argv = with_presets(argv)
    module = module if module.startswith("coregpt.") else f"{TREE}{module}"
    importlib.import_module(module).main(argv)


def _prepare_script(name: str, argv: list[str]) -> tuple[str, list[str]]:
    """Return the module of a data set's script, and the arguments for it. name: of the script"""
    from data.prepare_scripts import SCRIPTS

    known = sorted(path.parent.name for path in SCRIPTS.glob(f"*/{name}.py"))
    if not argv or argv[0].startswith("-"):
        usage = f"usage: {commands.command(f'data/NAME/{name}.py')} ..."
        print_and_exit(f"{usage}\n\nNAME is one of: {', '.join(known)}; NAME --help tells more")
    if argv[0] not in known:
        raise ConfigError(f"{name} {argv[0]}: got an unknown data set, wanted one of {', '.join(known)}")
    return f"data.{argv[0]}.{name}", argv[1:]


def _help(entrance: str) -> str:
    width = max(map(len, PROGRAMS))
    lines = [f"  {name:{width}}  {program.meaning}" for name, program in PROGRAMS.items()]
    return "\n".join(
        [
            f"usage: {entrance} COMMAND ...",
            "\nTrains small and medium GPTs: nanoGPT's options and configs, and nothing lost.",
            "\ncommands:",
            *lines,
            "\nexamples:",
            EXAMPLES.format(entrance),
            f"\n{entrance} COMMAND --help tells more; {entrance} --version",
        ]
    )


def _version() -> str:
    from importlib.metadata import version

    return version("coregpt")
