"""Where a run's batches come from: a data set's tokens or its queue, and what makes batches of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from core import ConfigError, Preemption, Runtime
from core.batch import Batch, to_device
from core.commands import is_run_by_path
from data.corrupted_text import CorruptedText
from data.masked_text import MaskedText
from data.meta_contents import find_tables, tiktoken_encoding
from data.prepare_scripts import SCRIPTS, STREAM, prepare_command, script_for
from data.rows.opening import are_rows
from data.stages import Stage, UniformStage, check_stages, create_stage_objects
from data.streaming.consumer import DatasetConsumer
from data.token_bins import TokenBins
from data.vocabulary import Vocabulary
from data.windows import Windows
from extras.stage_progress import StageProgress
from extras.validation_timer import ValidationTimer
from wiring.given_parts import NOTHING_GIVEN, GivenData, GivenParts
from wiring.hugging_face.models import tokens_of_start
from wiring.hugging_face.rows import RowSource, open_row_data

if TYPE_CHECKING:
    from config.options import Options
    from wiring.start import RunStart

log = logging.getLogger("coregpt")
GPT2_TOKENS, GPT2_NEWLINE = 50257, 198  # of a data set without meta.pkl
QUEUED = {"LM": "language_model", "MLM": "unmasking", "SEQUENCE_SCORING": "sequence_scoring"}  # in a queue's meta.pkl
UNTOUCHED_SHARE = 0.1  # of a scorer's validation texts
Draw = Callable[[str], Batch]


class RunData(NamedTuple):
    """The data of a run.

    source:     train.bin and val.bin (`TokenBins`), or a queue of ready-made batches (`DatasetConsumer`)
    batches:    makes batches of the source; the source itself if it does so already. Checkpoints save its state
    draw:       `draw(split)` returns the next batch on the device, for training
    eval_draw:  the same for evaluations
    vocabulary: the text's token ids and the special ones; None if the next token is learnt
    stages:     goes from masking stage to masking stage; None if training draws from all of them
    timer:      measures how long evaluations wait for data; None if the next token is learnt
    """

    source: Any
    batches: Any
    draw: Draw
    eval_draw: Draw
    vocabulary: Vocabulary | None
    stages: StageProgress | None
    timer: ValidationTimer | None

    @property
    def is_queue(self) -> bool:
        """Whether batches come ready-made from a queue."""
        return isinstance(self.source, DatasetConsumer)

    @property
    def rows(self) -> RowSource | None:
        """The data set if it is one of labelled rows."""
        return self.source if isinstance(self.source, RowSource) else None

    def wait(self) -> None:
        """Return when there are batches; the first files of a queue may not be written yet."""
        if self.is_queue:
            self.source.wait()


def open_data(
    options: Options,
    runtime: Runtime,
    preemption: Preemption | None = None,
    start: RunStart | None = None,
    given: GivenParts = NOTHING_GIVEN,
) -> RunData:
    """Return the data of a run. Raises DataError or ConfigError if the data set does not fit the options.

    preemption: lets a signal end the wait for a batch
    start:      a checkpoint to resume knows what the ids stand for, if the data set has lost its meta.pkl
    given:      data that are handed in take the place of the data set
    """
    if given.data is not None:
        own = _on_device(given.data.get_batch, runtime)
        draw = preemption.guard(own) if preemption and runtime.world_size == 1 else own
        return RunData(GivenData(given.data, given.tokenizer), given.data, draw, draw, None, None, None)
    if are_rows(options.dataset) or options.dataset_file:
        return _open_rows(options, runtime, preemption, start)
    if no_effect := options.changed(*options.sections()["rows"]):
        raise ConfigError(
            f"{', '.join(no_effect)}: for data sets of rows, and dataset={options.dataset} is none (FILE.jsonl, "
            "FILE.parquet, hf:FILE or hf:NAME): remove it"
        )
    training, validation = read_stages(options)  # wrong stages are refused even if they have no effect
    is_queue, is_plain = takes_queue(options), options.training_type == "language_model"
    source = open_queue(options, runtime) if is_queue else open_bins(options, start)
    vocabulary = None if is_plain else find_vocabulary(options, source)
    timer = None if is_plain else ValidationTimer()
    batches: Any = source
    stages = None
    if isinstance(source, TokenBins) and vocabulary is not None:
        if options.training_type == "token_classification":
            batches = _corrupted_text(source, options, vocabulary, runtime)
        else:
            training = training or [UniformStage(options.mask_probability)]
            stages = _stage_progress(options, training)
            batches = _masked_text(source, options, training, validation or training, stages, vocabulary, runtime)

    draw = _on_device(batches.get_batch, runtime)
    # with several processes, a signal to one of them would leave the others waiting
    if preemption and runtime.world_size == 1:
        draw = preemption.guard(draw)
    eval_draw = draw  # nanoGPT's evaluations draw as training does
    if is_queue or timer:
        eval_draw = _on_device(batches.get_eval_batch, runtime)
    if timer:
        eval_draw = timer.timed(eval_draw)
    return RunData(source, batches, draw, eval_draw, vocabulary, stages, timer)


def _open_rows(options: Options, runtime: Runtime, preemption: Preemption | None, start: RunStart | None) -> RunData:
    if start is None:
        raise ConfigError(f"dataset={options.dataset}: only training reads rows of text")
    source, batches = open_row_data(options, runtime, start)
    draw, eval_draw = _on_device(batches.get_batch, runtime), _on_device(batches.get_eval_batch, runtime)
    if preemption and runtime.world_size == 1:
        draw = preemption.guard(draw)
    return RunData(source, batches, draw, eval_draw, None, None, None)


def _on_device(get_batch: Draw, runtime: Runtime) -> Draw:
    return lambda split: to_device(get_batch(split), runtime.device)


def find_vocabulary(options: Options, source: TokenBins | DatasetConsumer) -> Vocabulary:
    """Return the text's token ids and the special ones. Raises ConfigError for ids that are not those of a queue."""
    mask, cls_token = options.mask_token_id, options.cls_token_id
    if isinstance(source, TokenBins):
        return Vocabulary.beyond(source.vocab_size or GPT2_TOKENS, mask=mask, cls_token=cls_token)
    is_scoring, meta = options.training_type == "sequence_scoring", source.meta
    if is_scoring and meta.get("cls_token_id") is None:
        raise ConfigError(f"{source.meta_path} has no cls_token_id, which a scorer reads its score from")
    for name, given in (("mask_token_id", mask), ("cls_token_id", cls_token if is_scoring else None)):
        if given not in (None, meta.get(name)):
            raise ConfigError(f"{name}={given}, but in {source.meta_path} it is {meta.get(name)}: remove the option")
    return Vocabulary.of(meta, source.vocab_size)


def data_folder(dataset: str) -> Path:
    """Return the folder of a data set that is given by its name under data/ or by its path.

    One that lies with the program counts if the current folder has none of its name.
    """
    named, path, with_program = Path("data", dataset), Path(dataset), SCRIPTS / dataset
    if named.is_dir() or not dataset:
        return named
    return path if path.is_dir() else with_program if (with_program / "train.bin").exists() else named


def takes_queue(options: Options) -> bool:
    """Return whether batches come from the data set's queue. Raises ConfigError if there is train.bin as well."""
    folder = data_folder(options.dataset)
    has_queue, has_bins = (folder / "queue").is_dir(), (folder / "train.bin").exists()
    if options.data_source == "auto" and has_queue and has_bins:
        raise ConfigError(
            f"{folder} holds both train.bin and a queue of batches: set data_source=bins or data_source=queue"
        )
    streams_only = bool(script_for(folder, STREAM)) and not script_for(folder) and options.data_source != "bins"
    if not has_queue and not has_bins and streams_only:
        raise ConfigError(
            f"{folder} holds no batches yet: run `{prepare_command(folder, STREAM)} CONFIG` at the same time, "
            "with the same config file, and start when its first files are there"
        )
    return has_queue if options.data_source == "auto" else options.data_source == "queue"


def open_bins(options: Options, start: RunStart | None = None) -> TokenBins:
    """Return the data set's train.bin and val.bin."""
    folder = data_folder(options.dataset)
    meta = tokens_of_start(start) if start and not (folder / "meta.pkl").exists() else None
    bins = TokenBins(folder, options.block_size, options.batch_size, meta=meta)
    if meta is not None and start is not None:
        whose = "the checkpoint" if start.found else start.init_from
        log.info(f"data: {bins.meta_path} is not there, its ids are taken for those of {whose}")
    if options.data_source != "auto" or options.training_type != "language_model" or not is_run_by_path():
        log.info(f"data: from {folder / 'train.bin'}")
    return bins


def open_queue(options: Options, runtime: Runtime) -> DatasetConsumer:
    """Return the data set's queue of batches. Raises ConfigError if it was made for another training type."""
    folder = data_folder(options.dataset)
    queue = DatasetConsumer(
        folder,
        options.batch_size,
        options.block_size,
        rank=runtime.rank,
        world_size=runtime.world_size,
        wait_sleep_seconds=options.data_wait_sleep_seconds,
        wait_timeout_seconds=options.data_wait_timeout_seconds,
    )
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
    """Return the masking stages of training and of validation, as far as the options give them."""
    training = create_stage_objects(options.unmasking_stages)
    validation = create_stage_objects(options.validation_stages, "validation_stages")
    if (training or validation) and options.training_type == "token_classification":
        log.warning("unmasking_stages, validation_stages: not for training_type=token_classification, without effect")
    return training, validation


def _stage_progress(options: Options, training: list[Stage]) -> StageProgress | None:
    is_staged = options.training_type == "unmasking" and not options.use_all_stages_for_training
    return StageProgress(training) if is_staged and len(training) > 1 else None


def _masked_text(
    bins: TokenBins,
    options: Options,
    training: list[Stage],
    validation: list[Stage],
    stages: StageProgress | None,
    vocabulary: Vocabulary,
    runtime: Runtime,
) -> MaskedText:
    newline = _newline_id(bins)
    is_scoring = options.training_type == "sequence_scoring"
    length = options.block_size - 1 if is_scoring else options.block_size  # a scorer's text has CLS in front of it
    for where, these in (("unmasking_stages", training), ("validation_stages", validation)):
        check_stages(these, length, has_newline=newline is not None, where=where)
    return MaskedText(
        _windows(bins, options, vocabulary, length),
        vocabulary,
        training,
        validation,
        newline_id=newline,
        corrupts=not is_scoring,
        untouched_share=UNTOUCHED_SHARE if is_scoring else 0.0,
        reached=stages.reached if stages else None,
        seed=options.seed,
        rank=runtime.rank,
        **options.pick("batch_size", "eval_iters"),
    )


def _corrupted_text(bins: TokenBins, options: Options, vocabulary: Vocabulary, runtime: Runtime) -> CorruptedText:
    return CorruptedText(
        _windows(bins, options, vocabulary, options.block_size),
        vocabulary.text,
        unmasked_min=options.guaranteed_unmasked_min,
        unmasked_max=options.guaranteed_unmasked_max,
        warmup_iters=options.random_mask_warmup,
        eval_at=int(options.max_iters) // 2,
        seed=options.seed,
        rank=runtime.rank,
        **options.pick("p1_p2_ratio", "batch_size", "eval_iters"),
    )


def _windows(bins: TokenBins, options: Options, vocabulary: Vocabulary, length: int) -> dict[str, Windows]:
    newline = _newline_id(bins)
    lines, paragraphs = options.enable_line_aligned_sequences, options.use_paragraph_boundaries
    start = "line" if lines else "paragraph" if paragraphs else "anywhere"
    newlines = () if newline is None else (newline,)
    return {
        split: Windows(file, length, start=start, newline_ids=newlines, pad_token_id=vocabulary.pad)
        for split, file in bins.files.items()  # shared with the bins: `check_vocab` of the bins is for the rows, too
    }


def _newline_id(bins: TokenBins) -> int | None:
    if bins.meta is None or tiktoken_encoding(bins.meta) == "gpt2":
        return GPT2_NEWLINE
    tables = find_tables(bins.meta)  # of characters, or of bytes as characters
    return tables.stoi.get("\n") if tables else None
