"""The options of a run that goes on, when the command line names nothing but the run and the machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import CheckpointError, ConfigError
from core.checkpoint.format import load_values
from core.checkpoint.manifest import sequence_of
from core.checkpoint.search import LINKED
from core.errors import is_rank_0

if TYPE_CHECKING:
    from config.options import Options

WHICH_RUN = {"init_from", "out_dir", "ckpt_filename"}
WHICH_MACHINE = {"device", "dtype", "compile", "backend", "time_limit"}


def as_saved(options: Options, argv: Sequence[str]) -> Options:
    """Return the options of the checkpoint to resume, with those that `argv` sets.

    With a config file, or an option beyond WHICH_RUN and WHICH_MACHINE, the options are as given, which is nanoGPT's
    meaning of a resume. They are also as given for a fresh start, and where no checkpoint holds options.
    """
    if options.init_from != "resume" or any(not argument.startswith("--") for argument in argv):
        return options
    path, saved = _saved(options)
    given = options.model_fields_set
    if path is None:
        return options
    if more := sorted(given - WHICH_RUN - WHICH_MACHINE):
        if options.dataset != saved["dataset"]:
            _say(
                f"resume: as {', '.join(more)} is given, all other options have their defaults, such as "
                f"dataset={options.dataset}, and not the values saved in {path}: give the config file and flags of "
                "that run, too"
            )
        return options
    known = {name: saved[name] for name in type(options).model_fields if name in saved}
    values = {**type(options).defaults(), **known, **options.pick(*WHICH_RUN, *given)}
    _say(f"resume: with the options saved in {path}; to change one, give the config file again")
    return _validated(options, values, path)


def _say(note: str) -> None:
    if is_rank_0():
        print(note, file=sys.stderr)  # the log has no handler before the run begins


def _saved(options: Options) -> tuple[Path | None, dict[str, Any]]:
    """Return the checkpoint to resume and the options saved in it; None if no checkpoint holds options."""
    folder = Path(options.out_dir)
    for path in [folder / options.ckpt_filename] if options.ckpt_filename else _newest_first(folder):
        try:
            saved = load_values(path).get("config")
        except CheckpointError:  # a damaged one is reported when it is to be loaded
            continue
        if isinstance(saved, dict) and "dataset" in saved:
            return path, saved
    return None, {}


def _newest_first(folder: Path) -> Iterator[Path]:
    """Yield the checkpoints of a folder, unverified, the newest first; nanoGPT's name last."""
    numbered = [path for path in folder.glob("ckpt-*.pt") if path.with_suffix(".json").is_file()]
    yield from sorted(numbered, key=lambda path: sequence_of(path.name) or 0, reverse=True)
    if (folder / LINKED).is_file():
        yield folder / LINKED


def _validated(options: Options, values: dict[str, Any], path: Path) -> Options:
    try:
        defaults = type(options).defaults()
        return type(options).validated(values, [name for name, value in values.items() if value != defaults[name]])
    except ValueError as error:
        raise ConfigError(f"the options saved in {path} are not valid here ({error}): give the config file") from None
