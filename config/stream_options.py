"""
What `data/<set>/prepare_streaming.py` can be told, declared as in `config/options.py`.

A training config can be handed to it as it is: what only `train.py` reads is left alone.
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
    """How a queue of batch files is filled."""

    opt = section("queue")
    dataset: str | None = opt(None, "folder under data/ whose queue is filled; None is the script's own")
    batches_per_file: int = opt(100, "batches in one file", ge=1)
    max_backlog_files: int = opt(2, "files of each split that may wait to be consumed", ge=1)
    sleep_seconds: float = opt(2.0, "seconds between looks at a queue that is full", gt=0)
    seed: int = opt(1337, "seed of all random draws: with it, file n always has the same content", ge=0, le=2**62)
    data_stream_verbose: bool = opt(True, "print a line about each file")
    files: int | None = opt(None, "stop after that many training files; None goes on until Ctrl-C", ge=1)
    once: bool = opt(False, "stop as soon as the queue is full; --once is short for --once=True")

    opt = section("batches")
    batch_size: int = opt(12, "rows of a batch; the same in training", ge=1)
    block_size: int = opt(1024, "tokens of a row; the same in training", ge=2)
    target_size: int | None = opt(None, "tokens of a row's target where it is text; None is block_size", ge=1)

    opt = section("masking")
    mask_probability: float = opt(0.15, "share of positions masked where there are no stages", ge=0, le=1)
    ignore_index: int = opt(-100, "target of positions that are not to be predicted", lt=0)
    use_all_stages_for_training: bool | None = opt(None, "True mixes the stages below in every file; None does not use them")
    unmasking_stages: list[dict[str, Any]] | None = opt(None, "stages of training batches")
    validation_stages: list[dict[str, Any]] | None = opt(None, "stages of validation batches")
    enable_line_aligned_sequences: bool = opt(True, "rows of whole lines, the rest padding; False takes windows from anywhere")
    source_data_dir: str | None = opt(None, "folder with the text (train.bin, or input.txt); None is the data set's, or else data/char_diffusion")
    sticky_p1_probability: float = opt(0.15, "sticky rounds: chance of a position without a masked neighbour", ge=0, le=1)
    sticky_p2_probability: float = opt(0.5, "sticky rounds: chance of a position beside a masked one", ge=0, le=1)
    max_rounds: int = opt(3, "sticky rounds: rounds that each row of text goes through", ge=1)

    opt = section("scoring")
    mlm_checkpoint_path: str | None = opt(None, "checkpoint, or folder of one, of the unmasking model that writes into masked positions")
    mask_probability_range: tuple[float, ...] | list[float] = opt((0.1, 0.8), "lowest and highest share masked where there are no stages")
    cls_token_id: int | None = opt(None, "id of [CLS]; None is the first after [MASK] and [PAD]", ge=0)
    score_transform: bool = opt(False, "the target is x^4 - 2x^3 + 2x of the masked share x instead of x itself")
    mode_distribution: dict[str, float] | None = opt(None, "dual mode: weights of language_model and sequence_scorer; None is half and half")
    alternation_frequency: int = opt(1, "dual mode: batches of one kind that come together", ge=1)
    del opt

    ALIASES: ClassVar[Any] = {"unmasking_model_checkpoint": ("mlm_checkpoint_path", None)}

    @model_validator(mode="after")
    def _fit_together(self) -> "StreamOptions":
        shares = tuple(self.mask_probability_range)
        if len(shares) != 2 or not 0 <= shares[0] <= shares[1] <= 1:
            raise ValueError(f"mask_probability_range={shares}: wanted two numbers between 0 and 1, the lower one first")
        return self

    def producer(self) -> dict[str, Any]:
        """Return what a Producer is made with."""
        keywords = self.pick("batches_per_file", "max_backlog_files", "sleep_seconds", "seed")
        return keywords if not self.data_stream_verbose else {**keywords, "say": print}

    def source(self, folder: Path) -> Path:
        """Return the folder with the text for the data set in `folder`."""
        if self.source_data_dir is not None:
            if not Path(self.source_data_dir).is_dir():
                raise ConfigError(f"source_data_dir={self.source_data_dir}: there is no such folder")
            return Path(self.source_data_dir)
        own = any((folder / name).exists() for name in ("train.bin", "input.txt", "text"))
        return folder if own else folder.parent / "char_diffusion"

    def target_folder(self, own: Path) -> Path:
        """Return the folder whose queue the script in the folder `own` fills."""
        folder = own if self.dataset is None else own.parent / self.dataset
        if folder != own and (folder / SCRIPT).exists():
            raise ConfigError(f"dataset={self.dataset!r} has a script of its own: run `python {folder / SCRIPT}`")
        return folder


def read_options(argv: Sequence[str]) -> StreamOptions:
    """Return the options that a command line asks for."""
    return configure(StreamOptions, ["--once=True" if argument == "--once" else argument for argument in argv])
