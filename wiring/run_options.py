"""The options of a run, from its command line; and the data set that they name, made if that needs nothing else."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import DataError, is_rank_0
from core.losses import SPLITS
from data import text_file
from data.prepare_scripts import is_ours, script_for
from data.rows.opening import are_rows
from wiring.architecture import with_model_fields
from wiring.saved_options import as_saved

if TYPE_CHECKING:
    from config.options import Options

NEED_NO_NETWORK = {"python_stdlib": "data.python_stdlib.prepare"}  # data sets that any machine can make
TEXTS = (".txt", ".md")
PACKAGE = __name__.removesuffix("wiring.run_options")


def read_options(argv: Sequence[str], values: Mapping[str, Any] | None = None) -> Options:
    """Return the options that a command line gives; with a text file as `dataset`, the data set that is made of it.

    values: further options by name, after those of the command line

    Rank 0 makes the data set; the others wait for rank 0 when they join it.
    """
    from config.options import Options
    from configurator import configure, without_config_flag

    argv = without_config_flag(argv)
    options = configure(with_model_fields(Options), argv)
    return with_data_set(as_saved(options.replace(**values) if values else options, argv))


def with_data_set(options: Options) -> Options:
    """Return the options with the name of a data set, which exists or cannot be made without the user."""
    if are_rows(options.dataset) or options.dataset_file:
        return options
    text = Path(options.dataset)
    if text.is_file() and text.suffix != ".bin":
        name = text_file.data_set_name(text)
        if is_rank_0():
            text_file.prepare(text, Path("data", name))
        return options.model_copy(update={"dataset": name})
    folder = Path("data", options.dataset)
    if text.suffix in TEXTS and not text.exists() and not folder.exists():
        near = difflib.get_close_matches(text.name, [path.name for path in text.parent.glob("*")], n=1)
        hint = f"; did you mean {text.parent / near[0]}?" if near else ""
        raise DataError(f"dataset={options.dataset}: there is no such file, wanted a text or a data set{hint}")
    module, script = NEED_NO_NETWORK.get(options.dataset), script_for(folder)
    can_be_made = module and script and is_ours(script)
    is_there = all((folder / f"{split}.bin").exists() for split in SPLITS) or (folder / "queue").exists()
    if can_be_made and is_rank_0() and not is_there:
        with redirect_stdout(sys.stderr):
            importlib.import_module(f"{PACKAGE}{module}").main(["--out", str(folder)])
    return options
