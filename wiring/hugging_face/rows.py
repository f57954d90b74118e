"""Rows of text as the data of a run, made from the options object: opened, encoded, ordered and collated."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import ConfigError, DataError, Runtime
from core.checkpoint.format import load_values
from data.package_tokenizers import HuggingFaceTokenizer
from data.rows.batches import RowBatches
from data.rows.chat import ChatEncoder, TemplateError
from data.rows.columns import Columns, find_columns
from data.rows.custom import CheckedCollator
from data.rows.encoding import POOR, Example, IdsEncoder, Marks, PairEncoder, SourceTargetEncoder, TextEncoder
from data.rows.items import Ends, Items, StreamItems, TableItems, split_of
from data.rows.opening import RowSplits, open_rows
from data.rows.order import shuffled
from data.rows.report import report_rows, show_examples
from data.rows.table import DUPLICATE, Examples
from data.tokenizers import tokenizer_from_meta
from extras.hugging_face.collation import packing_collate, padding_collate
from extras.hugging_face.tokenizer_export import to_hugging_face
from extras.hugging_face.tokenizer_import import tokenizer_meta
from wiring.hugging_face.dataset_file import CustomData, open_custom_data
from wiring.hugging_face.image_rows import find_processor, have_images, image_coding, read_template, with_places
from wiring.hugging_face.models import config_of, tokens_of_start

if TYPE_CHECKING:
    from config.options import Options
    from wiring.start import RunStart

log = logging.getLogger("coregpt")
WITHOUT_FILE = ("dataset_config", "train_split", "streaming", "split_seed")  # of data sets that are no dataset_file
Encode = Callable[[Mapping[str, Any]], Example | str]


class RowSource:
    """A data set of rows, with what a run asks of its data besides batches."""

    meta_path = Path("the tokenizer of the rows")
    paths: Mapping[str, Path] = {}

    def __init__(self, name: str, tokenizer: HuggingFaceTokenizer, rows: RowSplits, shifts: bool, packs: bool) -> None:
        self.name, self.tokenizer, self.rows, self.shifts, self.packs = name, tokenizer, rows, shifts, packs
        self.meta, self.vocab_size = tokenizer.meta(), tokenizer.vocab_size

    def fingerprint(self) -> str:
        """Return what identifies the rows."""
        return self.rows.fingerprint

    def check_vocab(self, vocab_size: int) -> None:
        """Raise DataError if the tokenizer has ids that the model lacks."""
        if self.vocab_size > vocab_size:
            raise DataError(
                f"the tokenizer has {self.vocab_size:,} ids, the model {vocab_size:,}: give the model's own tokenizer "
                "(tokenizer=...)"
            )


def open_row_data(options: Options, runtime: Runtime, start: RunStart) -> tuple[RowSource, RowBatches]:
    """Return the rows of a run, and what makes batches of them. Raises ConfigError or DataError if there are none."""
    config = _model_config(start)
    processor, tokenizer = find_processor(options, _find_tokenizer(options, start))
    writer = to_hugging_face(tokenizer, options.block_size)
    custom = open_custom_data(options, processor or writer) if options.dataset_file else None
    rows = _open(options) if custom is None else _rows_of(custom)
    has_encoder = bool(config.get("is_encoder_decoder"))
    _refuse_without_effect(options)
    if custom is not None and (no_effect := options.changed(*WITHOUT_FILE)):
        raise ConfigError(f"{', '.join(no_effect)}: without effect next to dataset_file: remove it")
    if has_encoder and options.packing:
        raise ConfigError("packing=True is for causal models, and this one has an encoder: remove it")
    takes_rows, has_images = custom is not None and custom.collate is not None, have_images(rows)
    if has_images and not takes_rows:
        rows = with_places(rows, str(custom.path) if custom else options.dataset)
    source = RowSource(options.dataset, tokenizer, rows, not has_encoder, options.packing)
    collate: Any
    if custom is not None and custom.collate is not None:
        items, collate = _custom_items(options, custom), CheckedCollator(custom.collate, not has_encoder)
    elif has_images:
        read, collate = image_coding(options, tokenizer, processor, str(config.get("model_type")))
        items = _table_items(options, source, _with_quality(options, source, read))
    else:
        make = _stream_items if options.streaming else _table_items
        items = make(options, source, _with_quality(options, source, _encoder(options, source, has_encoder)))
        packs, padded = options.packing, options.pad_to_multiple_of
        end = _end_id(tokenizer) or 0
        collate = packing_collate(options.block_size, end) if packs else padding_collate(writer, padded)
    training, evaluation, eval_iters = items
    micro_steps = runtime.micro_steps_per_rank(options.gradient_accumulation_steps)
    batches = RowBatches(
        training,
        evaluation,
        collate,
        batch_size=options.batch_size,
        micro_steps=micro_steps,
        eval_iters=eval_iters,
        shifts=not has_encoder,
        rank=runtime.rank,
        world_size=runtime.world_size,
        collates_all=takes_rows,
        order_of=_order_of(options, training),
    )
    return source, batches


def _order_of(options: Options, training: Items) -> str:
    """Return what decides which row comes at which place, besides the content of the rows."""
    names = ["seed", "split_ratio", "split_seed", "use_subset", "subset_size", "drop_duplicates", "min_quality_score"]
    names += ["streaming", "packing", "text_column", "prompt_column", "response_column", "messages_column"]
    names += ["max_input_length", "max_target_length"]
    names += ["shuffle_buffer"] if options.streaming else []
    names += ["block_size"] if options.packing else []
    count = f"{len(training.lengths)} rows, " if isinstance(training, TableItems) else ""
    return count + ", ".join(
        f"{name}={value}" for name, value in options.pick(*names).items() if value not in (None, False)
    )


def _open(options: Options) -> RowSplits:
    names = options.pick("streaming", "train_split", "val_split")
    return open_rows(options.dataset, config=options.dataset_config, **names)


def _rows_of(custom: CustomData) -> RowSplits:
    """Return the rows of the user's file like those of a data set."""
    first = custom.training[0]
    columns = [str(name) for name in first] if isinstance(first, Mapping) else []
    sizes = f"{len(custom.training)}+{len(custom.validation)}"
    content = hashlib.sha256(custom.path.read_bytes()).hexdigest()[:16]
    return RowSplits(custom.training, custom.validation, columns, f"{content} {sizes}")


def _custom_items(options: Options, custom: CustomData) -> tuple[Items, dict[str, Items], int]:
    """Return the items of rows that the user's collator takes: see `_table_items`."""

    def items(rows: Sequence[Any], seed: int | None) -> TableItems:
        count = min(len(rows), options.subset_size) if options.use_subset else len(rows)
        return TableItems(rows.__getitem__, [1] * count, seed, None, None if seed is None else _ends(options))

    training, validation = items(custom.training, options.seed), items(custom.validation, None)
    log.info(f"data: {custom.path}: {len(training):,} rows for training, {len(validation):,} for validation")
    eval_iters = min(options.eval_iters, math.ceil(len(validation) / options.batch_size))
    return training, {"train": items(custom.training, None), "val": validation}, eval_iters


def _ends(options: Options) -> Ends:
    """Return where an update must not go on with rows of the next epoch."""
    return Ends(options.num_epochs, options.epochs_per_job)


def _refuse_without_effect(options: Options) -> None:
    """Raise ConfigError for options of rows that have no effect next to the others, or contradict them."""
    given = options.changed(*options.sections()["rows"])
    for name, is_used, reason in (
        ("pad_to_multiple_of", not options.packing, "packing=True pads to block_size"),
        ("shuffle_buffer", options.streaming, "it is for streaming=True"),
        ("subset_size", options.use_subset, "it is for use_subset=True"),
        ("use_subset", not options.streaming, "streaming=True reads the rows one by one"),
        ("drop_duplicates", not options.streaming, "streaming=True does not look through the rows first"),
    ):
        if name in given and not is_used:
            raise ConfigError(f"{name} has no effect here: {reason}; remove it")
    if options.val_split is not None and options.val_split == options.train_split:
        raise ConfigError(f"val_split={options.val_split} is the split that trains: give another one, or remove it")


def _model_config(start: RunStart) -> dict[str, Any]:
    """Return the config of the run's model. Raises ConfigError unless it is one of Hugging Face."""
    if start.found is not None and not start.is_of_c_line:
        saved = load_values(start.found.path)["model_args"].get("hugging_face")
        found: dict[str, Any] = saved or {}
    else:
        found = config_of(start.model_name)
    if not found:
        raise ConfigError(
            "rows of text are for models of Hugging Face: set init_from=hf:NAME, or prepare token bins of the text"
        )
    return found


def _find_tokenizer(options: Options, start: RunStart) -> HuggingFaceTokenizer:
    meta = tokenizer_meta(options.tokenizer) if options.tokenizer else tokens_of_start(start)
    tokenizer = None if meta is None else tokenizer_from_meta(meta)
    if not isinstance(tokenizer, HuggingFaceTokenizer):
        given = options.tokenizer or start.init_from
        raise ConfigError(f"rows of text need a tokenizer, and {given} has none: set tokenizer=NAME or FOLDER")
    return tokenizer


def _end_id(tokenizer: HuggingFaceTokenizer) -> int | None:
    return tokenizer.special_id("eos_token")


def _encoder(options: Options, source: RowSource, has_encoder: bool) -> Encode:
    """Return `encode(row) -> Example`, or why it has none."""
    if "input_ids" in source.rows.columns:
        return IdsEncoder(options.block_size, source.shifts)
    given = Columns(options.text_column, options.prompt_column, options.response_column, options.messages_column)
    columns = find_columns(source.rows.columns, given)
    unread = [name for name in source.rows.columns if name not in columns.names and name != options.quality_column]
    log.info(f"data: reads {', '.join(columns.names)}" + (f", and not {', '.join(unread)}" if unread else ""))
    end = _end_id(source.tokenizer)
    marks = Marks(source.tokenizer.around()[0], [] if end is None else [end])
    if end is None:
        log.warning("data: the tokenizer has no end token: the model cannot learn where a text ends")
    limit, tokens = options.block_size, source.tokenizer
    if has_encoder:
        if columns.prompt is None or columns.response is None:
            raise ConfigError("a model with an encoder needs prompts and responses: set prompt_column, response_column")
        limits = options.max_input_length or limit, options.max_target_length or limit
        encode: Encode = SourceTargetEncoder(tokens, marks, columns.prompt, columns.response, *limits)
    elif columns.messages is not None:
        encode = _chat_encoder(options, tokens, columns.messages, marks)
    elif columns.prompt is not None and columns.response is not None:
        prompts = columns.prompt, columns.response
        encode = PairEncoder(tokens, marks, *prompts, limit, options.max_input_length)
    else:
        assert columns.text is not None
        encode = TextEncoder(tokens, marks, columns.text, limit)
    if columns.context is not None:
        return _with_context(encode, str(columns.prompt), columns.context)
    return encode


def _chat_encoder(options: Options, tokens: HuggingFaceTokenizer, column: str, marks: Marks) -> Encode:
    """Return what encodes chats. Raises ConfigError without a chat template, or if it cannot be run."""
    template = tokens.chat_template
    if options.chat_template:
        template = read_template(options.chat_template)
    if template is None:
        raise ConfigError(
            f"the column {column} holds chats, and the tokenizer has no chat template: set chat_template=FILE, or "
            "prompt_column and response_column"
        )
    writer = to_hugging_face(tokens, options.block_size)

    def render(messages: Sequence[Mapping[str, str]], begins_answer: bool) -> str:
        try:
            text: str = writer.apply_chat_template(
                list(messages), chat_template=template, tokenize=False, add_generation_prompt=begins_answer
            )
        except Exception as error:  # Jinja's, or raised by the template itself
            raise TemplateError(str(error)) from None
        return text

    controls = [token.content for token in tokens.tokenizer.get_added_tokens_decoder().values() if token.special]
    return ChatEncoder(tokens, render, column, options.block_size, controls=controls, start=marks.start)


def _with_context(encode: Encode, prompt: str, context: str) -> Encode:
    """Return an encoder of rows whose prompt is followed by a context, if they have one."""

    def joined(row: Mapping[str, Any]) -> Mapping[str, Any]:
        parts = [str(row[name]) for name in (prompt, context) if row.get(name)]
        return {**row, prompt: "\n\n".join(parts) + "\n\n"}

    return lambda row: encode(joined(row))


def _with_quality(options: Options, source: RowSource, encode: Encode) -> Encode:
    """Return an encoder of the rows that are good enough, if the options ask for it."""
    least, column, known = options.min_quality_score, options.quality_column, source.rows.columns
    if least is None:
        return encode
    if column not in known:
        raise ConfigError(
            f"min_quality_score={least:g}: there is no column {column}, only {', '.join(known)}: set quality_column, "
            "or remove min_quality_score"
        )

    def is_good(row: Mapping[str, Any]) -> bool:
        value = row.get(column)
        return isinstance(value, int | float) and value >= least

    return lambda row: encode(row) if is_good(row) else POOR


def _table_items(options: Options, source: RowSource, encode: Encode) -> tuple[Items, dict[str, Items], int]:
    """Return the items that train, those of an evaluation by split, and the batches of an evaluation."""
    training, validation = source.rows.training, source.rows.validation
    numbers: list[int] = list(range(len(training)))
    if options.use_subset:
        numbers = numbers[: options.subset_size]
    if options.drop_duplicates and validation is None:  # before the rows are divided, so that none is in both parts
        unique = Examples(training, numbers, encode, drops_duplicates=True)
        log.info(f"data: {unique.counts[DUPLICATE]:,} rows dropped {DUPLICATE}")
        numbers = unique.numbers
    if validation is None:
        chosen = [numbers[place] for place in shuffled(len(numbers), options.split_seed)]
        size = max(1, round(len(chosen) * (1 - options.split_ratio)))
        numbers, held_out, validation = sorted(chosen[size:]), sorted(chosen[:size]), training
    else:
        held_out = list(range(len(validation)))[: options.subset_size if options.use_subset else None]
    block = options.block_size if options.packing else None
    examples: dict[str, Examples] = {}
    for split, rows, own in (("train", training, numbers), ("val", validation, held_out)):
        known = examples["train"].known if split == "val" else set()
        found = examples[split] = Examples(rows, own, encode, options.drop_duplicates, known)
        items = TableItems(found.__getitem__, found.lengths, None, block)
        log.info(
            report_rows(split, found.counts, found.cut, found.duplicates, found.tokens, len(items) if block else None)
        )
        if not len(found):
            reasons = ", ".join(f"{count} {reason}" for reason, count in found.counts.items()) or "there are no rows"
            name = f"dataset_file={options.dataset_file}" if options.dataset_file else f"dataset={options.dataset}"
            raise DataError(f"{name}: no {split} row can be used ({reasons}): look at the data")
    for line in show_examples(
        [examples["train"][number] for number in range(min(2, len(examples["train"])))], source.tokenizer
    ):
        log.info(line)
    items_of = {split: TableItems(found.__getitem__, found.lengths, None, block) for split, found in examples.items()}
    batches = math.ceil(len(items_of["val"]) / options.batch_size)
    train = TableItems(examples["train"].__getitem__, examples["train"].lengths, options.seed, block, _ends(options))
    return train, dict(items_of), min(options.eval_iters, batches)


def _stream_items(options: Options, source: RowSource, encode: Encode) -> tuple[Items, dict[str, Items], int]:
    """Return what `_table_items` does, of a stream."""
    rows, share = source.rows, 1 - options.split_ratio
    block = options.block_size if options.packing else None
    own_split = rows.validation is not None

    def items(open_stream: Callable[[], Any], validation: bool, seed: int | None) -> StreamItems:
        takes = None if own_split else split_of(share, options.split_seed, validation)
        return StreamItems(open_stream, encode, piece=options.shuffle_buffer, seed=seed, block=block, takes=takes)

    training = items(rows.training, False, options.seed)
    first = items(rows.training, False, options.seed).look()
    log.info(report_rows("train, its first rows", first.counts, first.cut, 0, first.tokens))
    for line in show_examples(first.examples, source.tokenizer):
        log.info(line)
    evaluation: dict[str, Items] = {
        "train": items(rows.training, False, None),
        "val": items(rows.validation or rows.training, True, None),
    }
    return training, evaluation, options.eval_iters
