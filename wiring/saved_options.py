"""The options of a run that goes on, when the command line names nothing but the run and the machine."""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import CheckpointError, ConfigError
from core.checkpoint.format import load_values
from core.checkpoint.manifest import read, sequence_of
from core.checkpoint.search import LINKED
from core.errors import is_rank_0

if TYPE_CHECKING:
    from config.options import Options

WHICH_RUN = {"init_from", "out_dir", "ckpt_filename"}
WHICH_MACHINE = {"device", "dtype", "compile", "backend", "time_limit", "cpu_threads"}
WHO_WATCHES = {"callbacks_file"}


def as_saved(options: Options, argv: Sequence[str]) -> Options:
    """Return the options of the checkpoint to resume, with those that `argv` sets.

    With a config file, or an option beyond WHICH_RUN, WHICH_MACHINE and WHO_WATCHES, the options are as given, which is
    nanoGPT's meaning of a resume. They are also as given for a fresh start, and where no checkpoint holds options.
    """
    if options.init_from != "resume" or any(not argument.startswith("--") for argument in argv):
        return options
    path, saved = _saved(options)
    given = options.model_fields_set
    if path is None:
        return options
    if more := sorted(given - WHICH_RUN - WHICH_MACHINE - WHO_WATCHES):
        if options.dataset != saved["dataset"]:
            _say(
                f"resume: as {', '.join(more)} is given, all other options have their defaults, such as "
                f"dataset={options.dataset}, and not the values saved in {path}: give the config file and flags of "
                "that run, too"
            )
        return options
    found = read_saved(type(options), saved, path, options.pick(*WHICH_RUN, *given))
    _say(f"resume: with the options saved in {path}; to change one, give the config file again")
    return found


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


def read_saved(
    schema: type[Options], saved: Mapping[str, Any], path: Path, given: Mapping[str, Any] | None = None
) -> Options:
    """Return the options that the checkpoint at `path` has saved. Raises ConfigError if a value is not valid here.

    saved: its `config`; names that are no option are ignored
    given: options that have another value
    """
    values, errors = {**schema.defaults(), **(given or {})}, []
    for name in schema.model_fields.keys() & saved.keys() - (given or {}).keys():
        try:
            values[name] = schema.fit(name, saved[name])
        except ValueError as error:
            errors.append(f"{name}: got {reprlib.repr(saved[name])}, wanted {error}")
    defaults = schema.defaults()
    try:
        if errors:
            raise ValueError("; ".join(sorted(errors)))
        return schema.validated(values, [name for name, value in values.items() if value != defaults[name]])
    except ValueError as error:
        raise ConfigError(
            f"the options saved in {path} are not valid here ({error}): give the config file, or another checkpoint"
        ) from None


def _newest_first(folder: Path) -> Iterator[Path]:
    """Yield the checkpoints of a folder, unverified, the newest first; nanoGPT's name last."""
    numbered = [path for path in folder.glob("ckpt-*.json") if sequence_of(path.name) is not None]
    for path in sorted(numbered, key=lambda path: sequence_of(path.name) or 0, reverse=True):
        try:
            yield folder / read(path)["file"]
        except CheckpointError:  # a damaged one is reported when it is to be loaded
            yield path.with_suffix(".pt")
    if (folder / LINKED).is_file():
        yield folder / LINKED
