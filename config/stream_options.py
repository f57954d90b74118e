"""
The options of `data/<set>/prepare_streaming.py`, declared as in `config/options.py`.

The script accepts a training config; options that only `train.py` has are ignored.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import model_validator

from config.schema import Schema, section
from configurator import configure
from core.errors import ConfigError

SCRIPT = "prepare_streaming.py"


class StreamOptions(Schema):
    """The options of a script that fills a queue of batch files."""

    opt = section("queue")
    dataset: str | None = opt(None, "folder under data/ whose queue is filled; None: the script's own folder", text="path")
    batches_per_file: int = opt(100, "batches per file", ge=1)
    max_backlog_files: int = opt(2, "maximum number of unread files per split", ge=1)
    sleep_seconds: float = opt(2.0, "seconds between checks of a full queue", gt=0)
    seed: int = opt(1337, "seed of all random draws; file n of a split always has the same content", ge=0, le=2**62)
    data_stream_verbose: bool = opt(True, "print a line for each file")
    files: int | None = opt(None, "number of training files after which the script stops; None: run until Ctrl-C", ge=1)
    once: bool = opt(False, "stop when the queue is full; --once is short for --once=True")

    opt = section("batches")
    batch_size: int = opt(12, "sequences per batch; must equal batch_size of the training run", ge=1)
    block_size: int = opt(1024, "tokens per sequence; must equal block_size of the training run", ge=2)
    target_size: int | None = opt(None, "tokens per target, if targets are text; None: block_size", ge=1)

    opt = section("masking")
    mask_probability: float = opt(0.15, "without stages: probability that a position is masked", ge=0, le=1)
    ignore_index: int = opt(-100, "target of positions that are not predicted", lt=0)
    use_all_stages_for_training: bool | None = opt(None, "True mixes the stages below in every file; None ignores them")
    unmasking_stages: list[dict[str, Any]] | None = opt(None, "masking stages of training batches")
    validation_stages: list[dict[str, Any]] | None = opt(None, "masking stages of validation batches")
    enable_line_aligned_sequences: bool = opt(True, "sequences of complete lines, filled up with padding; False: sequences start anywhere")
    source_data_dir: str | None = opt(None, "folder with the text (train.bin or input.txt); None: the data set's folder, or data/char_diffusion if it has no text", text="path")
    sticky_p1_probability: float = opt(0.15, "sticky rounds: mask probability of a position without a masked neighbour", ge=0, le=1)
    sticky_p2_probability: float = opt(0.5, "sticky rounds: mask probability of a position next to a masked one", ge=0, le=1)
    max_rounds: int = opt(3, "sticky rounds: number of rounds per sequence", ge=1)

    opt = section("scoring")
    mlm_checkpoint_path: str | None = opt(None, "checkpoint file or run folder of the unmasking model that fills masked positions", text="path")
    mask_probability_range: tuple[float, ...] | list[float] = opt((0.1, 0.8), "without stages: minimum and maximum of the masked ratio")
    cls_token_id: int | None = opt(None, "id of [CLS]; None: the first id after [MASK] and [PAD]", ge=0)
    score_transform: bool = opt(False, "sequence_scoring: the target is x^4 - 2x^3 + 2x instead of the masked ratio x")
    mode_distribution: dict[str, float] | None = opt(None, "dual mode: weights of language_model and sequence_scorer; None: equal weights")
    alternation_frequency: int = opt(1, "dual mode: number of consecutive batches of one kind", ge=1)
    del opt

    ALIASES: ClassVar[Any] = {"unmasking_model_checkpoint": ("mlm_checkpoint_path", None)}

    @model_validator(mode="after")
    def _check_range(self) -> "StreamOptions":
        ratios = tuple(self.mask_probability_range)
        if len(ratios) != 2 or not 0 <= ratios[0] <= ratios[1] <= 1:
            raise ValueError(f"mask_probability_range={ratios}: wanted two numbers between 0 and 1, the lower one first")
        return self

    def producer(self) -> dict[str, Any]:
        """Return the keyword arguments of a Producer."""
        keywords = self.pick("batches_per_file", "max_backlog_files", "sleep_seconds", "seed")
        return keywords if not self.data_stream_verbose else {**keywords, "say": print}

    def source(self, folder: Path) -> Path:
        """Return the folder with the text for the data set in `folder`. Raises ConfigError if there is none."""
        if self.source_data_dir is not None:
            if not Path(self.source_data_dir).is_dir():
                raise ConfigError(f"source_data_dir={self.source_data_dir}: there is no such folder")
            return Path(self.source_data_dir)
        has_text = any((folder / name).exists() for name in ("train.bin", "input.txt", "text"))
        return folder if has_text else folder.parent / "char_diffusion"

    def target_folder(self, script_folder: Path) -> Path:
        """Return the data set folder whose queue the script in `script_folder` fills."""
        folder = script_folder if self.dataset is None else script_folder.parent / self.dataset
        if folder != script_folder and (folder / SCRIPT).exists():
            raise ConfigError(f"dataset={self.dataset!r} has its own script: run `python {folder / SCRIPT}`")
        return folder


def read_options(argv: Sequence[str]) -> StreamOptions:
    """Return the options that the arguments set."""
    return configure(StreamOptions, ["--once=True" if argument == "--once" else argument for argument in argv])
