"""Where a run's batches come from: its options turned into a data set's tokens, and these into what is learnt from."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import ConfigError

if TYPE_CHECKING:
    from config.options import Options
    from core import Runtime
    from data.corrupted_text import CorruptedText
    from data.masked_text import MaskedText
    from data.stages import Stage
    from data.streaming.consumer import DatasetConsumer
    from data.token_bins import TokenBins
    from data.vocabulary import Vocabulary
    from data.windows import Windows

log = logging.getLogger("coregpt")
GPT2_TOKENS, GPT2_NEWLINE = 50257, 198  # in the text of a data set without meta.pkl
QUEUED = {"LM": "language_model", "MLM": "unmasking", "SEQUENCE_SCORING": "sequence_scoring"}  # in its meta.pkl
UNTOUCHED_SHARE = 0.1  # of a scorer's validation texts


def takes_queue(options: Options) -> bool:
    """Tell whether batches come from the data set's queue rather than from train.bin; ask where both are there."""
    folder = Path("data", options.dataset)
    has_queue, has_bins = (folder / "queue").is_dir(), (folder / "train.bin").exists()
    if options.data_source == "auto" and has_queue and has_bins:
        raise ConfigError(
            f"{folder} holds both train.bin and a queue of batches: set data_source=bins or data_source=queue"
        )
    streams_only = (folder / "prepare_streaming.py").exists() and not (folder / "prepare.py").exists()
    streams_only &= options.data_source != "bins"
    if not has_queue and not has_bins and streams_only:
        raise ConfigError(
            f"{folder} holds no batches yet: run `python {folder / 'prepare_streaming.py'} CONFIG` beside this, with "
            "the same config file, and start when its first files are there"
        )
    return has_queue if options.data_source == "auto" else options.data_source == "queue"


def open_bins(options: Options, run: Runtime) -> TokenBins:
    """Return the data set's train.bin and val.bin."""
    from data.token_bins import TokenBins

    folder = Path("data", options.dataset)
    bins = TokenBins(folder, options.block_size, options.batch_size, run.device)
    if options.data_source != "auto" or options.training_type != "language_model":
        log.info(f"data: from {folder / 'train.bin'}")
    return bins


def open_queue(options: Options, run: Runtime) -> DatasetConsumer:
    """Return the data set's queue of batches. Raises ConfigError for one that is made for another training type."""
    from data.streaming.consumer import DatasetConsumer

    folder = Path("data", options.dataset)
    queue = DatasetConsumer(
        folder, options.batch_size, options.block_size, device=run.device,
        rank=run.rank, world_size=run.world_size, wait_sleep_seconds=options.data_wait_sleep_seconds,
        wait_timeout_seconds=options.data_wait_timeout_seconds,
    )  # fmt: skip
    log.info(f"data: from {folder / 'queue'}")
    if queue.meta["training_type"] == "DUAL_MODE":
        raise ConfigError(f"the queue in {folder} mixes batches for two heads, which no run learns from: fill another")
    made_for = QUEUED.get(queue.meta["training_type"], queue.meta["training_type"])
    if made_for != options.training_type:
        raise ConfigError(
            f"the queue in {folder} is made for training_type={made_for}, not {options.training_type}: "
            f"set training_type={made_for}, or choose another dataset"
        )
    return queue


def read_stages(options: Options) -> tuple[list[Stage], list[Stage]]:
    """Return the masking stages of training and of validation; none where none are given."""
    from data.stages import create_stage_objects

    training = create_stage_objects(options.unmasking_stages)
    validation = create_stage_objects(options.validation_stages, "validation_stages")
    if (training or validation) and options.training_type == "token_classification":
        log.warning("unmasking_stages, validation_stages: not for training_type=token_classification, without effect")
    return training, validation


def make_gaps(
    bins: TokenBins, options: Options, stages: tuple[list[Stage], list[Stage]], vocabulary: Vocabulary, run: Runtime
) -> MaskedText | CorruptedText:
    """Return what training draws its batches from: texts with gaps, or with replaced tokens."""
    if options.training_type == "token_classification":
        return _corrupted_text(bins, options, vocabulary, run)
    return _masked_text(bins, options, stages, vocabulary, run)


def _masked_text(
    bins: TokenBins, options: Options, stages: tuple[list[Stage], list[Stage]], vocabulary: Vocabulary, run: Runtime
) -> MaskedText:
    from data.masked_text import MaskedText
    from data.stages import UniformStage, check_stages

    newline = _newline_id(bins)
    scoring = options.training_type == "sequence_scoring"
    training = stages[0] or [UniformStage(options.mask_probability)]
    validation = stages[1] or training
    length = options.block_size - 1 if scoring else options.block_size  # CLS goes before the text
    for where, these in (("unmasking_stages", training), ("validation_stages", validation)):
        check_stages(these, length, has_newline=newline is not None, where=where)
    return MaskedText(
        _windows(bins, options, vocabulary, length), vocabulary, training, validation,
        newline_id=newline, corrupts=not scoring, untouched_share=UNTOUCHED_SHARE if scoring else 0.0,
        seed=options.seed, rank=run.rank, device=run.device, **options.pick("batch_size", "eval_iters"),
    )  # fmt: skip


def _corrupted_text(bins: TokenBins, options: Options, vocabulary: Vocabulary, run: Runtime) -> CorruptedText:
    from data.corrupted_text import CorruptedText

    return CorruptedText(
        _windows(bins, options, vocabulary, options.block_size), vocabulary.text,
        unmasked_min=options.guaranteed_unmasked_min, unmasked_max=options.guaranteed_unmasked_max,
        warmup_iters=options.random_mask_warmup, eval_at=int(options.max_iters) // 2,
        seed=options.seed, rank=run.rank, device=run.device, **options.pick("p1_p2_ratio", "batch_size", "eval_iters"),
    )  # fmt: skip


def _windows(bins: TokenBins, options: Options, vocabulary: Vocabulary, length: int) -> dict[str, Windows]:
    from data.windows import Windows

    newline = _newline_id(bins)
    lines, paragraphs = options.enable_line_aligned_sequences, options.use_paragraph_boundaries
    start = "line" if lines else "paragraph" if paragraphs else "anywhere"
    newlines = () if newline is None else (newline,)
    return {
        split: Windows(path, length, start=start, newline_ids=newlines, pad_token_id=vocabulary.pad)
        for split, path in bins.paths.items()
    }


def _newline_id(bins: TokenBins) -> int | None:
    from data.meta import read_meta

    meta = read_meta(bins.meta_path) if bins.meta_path.exists() else {"tokenizer": "gpt2"}
    if meta.get("tokenizer") == "gpt2":
        return GPT2_NEWLINE
    stoi = meta.get("stoi")  # of characters, or of bytes as characters
    return stoi.get("\n") if isinstance(stoi, dict) else None
