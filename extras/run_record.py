"""Records with which options a run begins: in config.yaml, and in a line of metrics.jsonl."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.callback import Callback
from core.checkpoint.provenance import version
from core.checkpoint.resume import train_command
from core.checkpoint.run_folder import CONFIG_MARK, keep_config
from core.logger import RUN

if TYPE_CHECKING:
    from core.trainer import Trainer


class RunRecord(Callback):
    """Writes the options file of the run folder and logs the event `run`, before the first update.

    Rank 0 does so, and not for a run that is resumed after its last iteration.

    config: path of the options file
    save:   writes the options to a path, below a first line that is given as a text
    """

    def __init__(self, options: Mapping[str, Any], config: Path, save: Callable[[Path, str], None]) -> None:
        self.options = options
        self.config = config
        self.save = save

    def on_train_begin(self, trainer: Trainer) -> None:
        if not trainer.runtime.is_master or trainer.iter_num > trainer.max_iters:  # a finished run has nothing to do
            return
        again = train_command(shlex.quote(str(self.config)), trainer.runtime.world_size)
        keep_config(self.config, lambda path: self.save(path, f"{CONFIG_MARK}; a run with these options: {again}"))
        trainer.logger.log_event(
            {
                "event": RUN,
                "run": trainer.checkpointer.run_id,
                "started": datetime.now(UTC).isoformat(timespec="seconds"),
                "provenance": {"coregpt": version(), **trainer.checkpointer.notes.provenance},
                "options": {name: _as_json(value) for name, value in self.options.items()},
            }
        )


def _as_json(value: Any) -> Any:
    """Return a value that JSON can hold: the value, or its text for other values in a fork's GPTConfig."""
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return repr(value)
    return value
