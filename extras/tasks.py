"""What a run learns: its options turned into data source, objective and loss modifiers."""

from __future__ import annotations

import logging
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import CheckpointError, ConfigError
from extras.validation_timer import ValidationTimer

if TYPE_CHECKING:
    from collections.abc import Callable

    from config.options import Options
    from core import Callback, Logger, ModelInitializer, Objective, Runtime
    from data.vocabulary import Vocabulary
    from loss_modifiers import LossModifierPipeline

log = logging.getLogger("coregpt")
GPT2_TOKENS, GPT2_NEWLINE = 50257, 198  # in the text of a data set without meta.pkl
QUEUED = {"LM": "language_model", "MLM": "unmasking", "SEQUENCE_SCORING": "sequence_scoring"}  # in its meta.pkl
UNTOUCHED_SHARE = 0.1  # of a scorer's validation texts


class Task:
    """The parts of a run that depend on what it learns; `train.py` asks for each when it is its turn.

    For the next token they are nanoGPT's: `TokenBins`, and a `LanguageModeling` that uses the model's own loss.
    `bins` is where the tokens are: train.bin and val.bin, or a queue of batches that are made already; `data` is
    what makes batches of them.
    """

    def __init__(self, options: Options, run: Runtime) -> None:
        self.options = options
        self.run = run
        self.from_queue = _takes_queue(options)
        self.bins: Any = self._queue() if self.from_queue else self._token_bins()
        self.progress: Any = None
        self.timer = ValidationTimer()
        self.modifiers: LossModifierPipeline | None = None
        self.data = self._data()

    @property
    def is_plain(self) -> bool:
        """Whether it is the next token that is learnt."""
        return self.options.training_type == "language_model"

    @property
    def vocab_size(self) -> int | None:
        """Size of the model's vocabulary; None where nothing says."""
        return self.text_vocab_size if self.is_plain else self.vocabulary.size

    @property
    def text_vocab_size(self) -> int | None:
        """Size of the text's own vocabulary, where the data set says."""
        size: int | None = self.bins.vocab_size
        return size

    def check(self, model_args: dict[str, Any], checkpoint: dict[str, Any] | None) -> None:
        """Raise where data, model and a resumed checkpoint do not learn the same thing from the same tokens."""
        wanted, notes = self.options.training_type, (checkpoint or {}).get("config") or {}
        found = notes.get("training_type", "language_model") if checkpoint else wanted
        if found != wanted:
            raise ConfigError(
                f"the checkpoint is of a run with training_type={found}, not {wanted}: resume it with that, or "
                f"begin a new run from it with init_from_checkpoint={self.options.out_dir} and another out_dir"
            )
        cls_token_id = model_args.get("cls_token_id")
        if wanted == "sequence_scoring" and cls_token_id != self.vocabulary.cls:
            raise ConfigError(
                f"the checkpoint's scorer reads from token {cls_token_id}, here CLS is {self.vocabulary.cls}: set "
                f"cls_token_id={cls_token_id}"
            )
        if checkpoint and notes.get("mask_token_id") != self.options.mask_token_id:
            raise ConfigError(
                f"the checkpoint's run had mask_token_id={notes.get('mask_token_id')}, not "
                f"{self.options.mask_token_id}: resume it with that"
            )
        if not self.is_plain and self.vocabulary.size > model_args["vocab_size"]:
            raise ConfigError(
                f"the model knows {model_args['vocab_size']} token ids, wanted {self.vocabulary.size}: the text's "
                f"{self.vocabulary.text}, and the mask's {self.vocabulary.mask} and others beyond them; start from "
                "these weights with init_from_checkpoint instead, which makes room"
            )
        its_own = self.is_plain or self.from_queue
        self.bins.check_vocab(model_args["vocab_size"] if its_own else self.vocabulary.text)

    def fingerprint(self) -> str:
        """Return a short hash of the data."""
        return str(self.bins.fingerprint())

    @property
    def vocabulary(self) -> Vocabulary:
        """The text's token ids, and those beyond them."""
        from data.vocabulary import Vocabulary

        options = self.options
        if self.from_queue:
            return Vocabulary.of(self.bins.meta, self.bins.vocab_size)
        text = self.bins.vocab_size or GPT2_TOKENS
        return Vocabulary.beyond(text, mask=options.mask_token_id, cls_token=options.cls_token_id)

    def model_args(self) -> dict[str, Any]:
        """Return the model's arguments as checkpoints keep them."""
        args = self.options.model_args(self.vocab_size)
        if self.options.training_type == "sequence_scoring":
            args["cls_token_id"] = self.vocabulary.cls
        return args

    # where batches come from

    def _data(self) -> Any:
        """Return what training draws its batches from."""
        if self.from_queue:
            return self.bins
        make: dict[str, Callable[[], Any]] = {
            "language_model": lambda: self.bins,
            "unmasking": self._masked_text,
            "sequence_scoring": self._masked_text,
            "token_classification": self._corrupted_text,
        }
        return make[self.options.training_type]()

    def eval_draw(self, draw: Callable[[str], Any]) -> Callable[[str], Any]:
        """Return what evaluations draw their batches from; `draw`, as in nanoGPT, for the next token."""
        if self.is_plain and not self.from_queue:
            return draw
        return self.timer.timed(self.data.get_eval_batch)

    def _token_bins(self) -> Any:
        from data.token_bins import TokenBins

        options = self.options
        folder = os.path.join("data", options.dataset)
        return TokenBins(folder, options.block_size, options.batch_size, self.run.device)

    def _queue(self) -> Any:
        from data.streaming.consumer import DatasetConsumer

        options, run = self.options, self.run
        queue = DatasetConsumer(
            os.path.join("data", options.dataset), options.batch_size, options.block_size, device=run.device,
            rank=run.rank, world_size=run.world_size, wait_sleep_seconds=options.data_wait_sleep_seconds,
            wait_timeout_seconds=options.data_wait_timeout_seconds,
        )  # fmt: skip
        made_for = QUEUED.get(queue.meta.get("training_type", "LM"))
        if made_for != options.training_type:
            raise ConfigError(
                f"the queue in {queue.folder} is made for training_type={made_for}, not {options.training_type}: "
                f"set training_type={made_for}, or choose another dataset"
            )
        return queue

    def _masked_text(self) -> Any:
        from data.masked_text import MaskedText
        from data.stages import UniformStage, check_stages, create_stage_objects
        from extras.stages import StageProgress

        options, newline = self.options, self._newline_id()
        scoring = options.training_type == "sequence_scoring"
        training = create_stage_objects(options.unmasking_stages) or [UniformStage(options.mask_probability)]
        validation = create_stage_objects(options.validation_stages, "validation_stages") or training
        length = options.block_size - 1 if scoring else options.block_size  # CLS goes before the text
        for stages in (training, validation):
            check_stages(stages, length, has_newline=newline is not None)
        if len(training) > 1 and not options.use_all_stages_for_training and not scoring:
            self.progress = StageProgress(training)
        return MaskedText(
            self._windows(length), self.vocabulary, training, validation,
            reached=self.progress.reached if self.progress else lambda: len(training),
            newline_id=newline, corrupts=not scoring, untouched_share=UNTOUCHED_SHARE if scoring else 0.0,
            seed=options.seed, rank=self.run.rank, device=self.run.device, **options.pick("batch_size", "eval_iters"),
        )  # fmt: skip

    def _corrupted_text(self) -> Any:
        from data.corrupted_text import CorruptedText

        options = self.options
        return CorruptedText(
            self._windows(options.block_size), self.vocabulary.text,
            unmasked_min=options.guaranteed_unmasked_min, unmasked_max=options.guaranteed_unmasked_max,
            warmup_iters=options.random_mask_warmup, eval_at=int(options.max_iters) // 2,
            seed=options.seed, rank=self.run.rank, device=self.run.device,
            **options.pick("p1_p2_ratio", "batch_size", "eval_iters"),
        )  # fmt: skip

    def _windows(self, length: int) -> dict[str, Any]:
        from data.windows import Windows

        options, newline = self.options, self._newline_id()
        lines, paragraphs = options.enable_line_aligned_sequences, options.use_paragraph_boundaries
        start = "line" if lines else "paragraph" if paragraphs else "anywhere"
        newlines = () if newline is None else (newline,)
        return {
            split: Windows(path, length, start=start, newline_ids=newlines, pad_token_id=self.vocabulary.pad)
            for split, path in self.bins.paths.items()
        }

    def _newline_id(self) -> int | None:
        from data.meta import read_meta

        meta = read_meta(self.bins.meta_path) if self.bins.meta_path.exists() else {"tokenizer": "gpt2"}
        if meta.get("tokenizer") == "gpt2":
            return GPT2_NEWLINE
        stoi = meta.get("stoi")  # of characters, or of bytes as characters
        return stoi.get("\n") if isinstance(stoi, dict) else None

    # what is made of them

    def objective(self, initializer: ModelInitializer) -> Objective:
        """Return what a training step computes, with the frozen models it needs loaded."""
        from core import LanguageModeling
        from extras.modifiers import create_loss_modifier_pipeline
        from extras.objectives import SequenceScoring, TokenClassification, Unmasking

        options = self.options
        special = range(self.vocabulary.text, self.vocabulary.size) if options.uncertainty_factor else ()
        modifiers = create_loss_modifier_pipeline(
            options, special=special, device=self.run.device,
            rank=self.run.rank, load_judge=lambda path: self._judge(initializer, path),
        )  # fmt: skip
        wanted = modifiers.get_enabled_modifier_names()
        modifiers = modifiers.for_training_type(options.training_type)
        if others := sorted(set(wanted) - set(modifiers.get_enabled_modifier_names())):
            log.warning(f"{', '.join(others)}: not for training_type={options.training_type}, without effect")
        self.modifiers = None if modifiers.is_empty() else modifiers
        if options.training_type == "unmasking":
            return Unmasking(options.loss_mean, self.modifiers)
        if options.training_type == "token_classification":
            return TokenClassification(options.num_token_classes, options.class_weights == "balanced", self.modifiers)
        if options.training_type == "sequence_scoring":
            filler = None if self.from_queue else self._filler(initializer)
            return SequenceScoring(self.vocabulary.cls, filler, options.score_transform, self.modifiers)
        return LanguageModeling(self.modifiers)

    def _filler(self, initializer: ModelInitializer) -> Any:
        from extras.objectives.filler import Filler

        options = self.options
        if not options.unmasking_model_checkpoint:
            raise ConfigError(
                "training_type=sequence_scoring needs a model that fills the gaps: set "
                "unmasking_model_checkpoint to the folder of an unmasking run"
            )
        path = self._file(options.unmasking_model_checkpoint)
        model = initializer.load_frozen(path, "language_model", self.vocabulary.size, options.block_size - 1)
        if self.vocabulary.mask >= model.config.vocab_size or model.config.attention_type != "bidirectional":
            raise CheckpointError(f"{path} is no unmasking model: wanted one trained with training_type=unmasking")
        sample = options.fill == "sample"
        return Filler(model, self.vocabulary.text, sample, options.fill_temperature, options.fill_top_k)

    def _judge(self, initializer: ModelInitializer, path: str) -> tuple[Any, dict[str, Any]]:
        """Return a frozen scorer as a function, and what a modifier has to know about it."""
        from core import load_checkpoint

        file = self._file(path)
        model = initializer.load_frozen(file, "sequence_scorer", self.vocabulary.size, self.options.block_size)
        about = {"cls_token_id": model.config.cls_token_id, "block_size": model.config.block_size}
        scale = (load_checkpoint(file).get("config") or {}).get("score_transform")
        return (lambda ids: model(ids)[0]), about if scale is None else {**about, "transformed": scale}

    @cached_property
    def transfer_source(self) -> Path | None:
        """The checkpoint that a new model starts from, the same one each time it is made; None for none."""
        given = self.options.init_from_checkpoint
        return self._file(given) if given else None

    def _file(self, path: str) -> Path:
        """Return a checkpoint's file, the same on all ranks, whoever writes in that folder meanwhile."""
        return self.run.from_master(lambda: checkpoint_file(path))

    # what goes along

    def callbacks(self) -> list[Callback]:
        """Return what tells stages and modifiers where the run is."""
        from extras.iteration_clock import IterationClock
        from extras.queue_release import QueueRelease

        listeners: list[Any] = [part for part in (self.modifiers, self.data) if hasattr(part, "iter_num")]
        found: list[Callback] = [IterationClock(listeners)] if listeners else []
        if self.from_queue:
            found.append(QueueRelease(self.bins))
        if not self.is_plain:
            found.append(self.timer)
        return [*found, self.progress] if self.progress else found

    def loggers(self) -> list[Logger]:
        """Return what prints the lines that the task adds to nanoGPT's."""
        from extras.objectives.lines import ObjectiveLines

        options = self.options
        if not self.run.is_master or (self.is_plain and self.modifiers is None):
            return []
        return [ObjectiveLines(options.training_type, options.max_entropy_penalty)]


def _takes_queue(options: Options) -> bool:
    """Tell whether batches come from the data set's queue rather than from train.bin; ask where both are there."""
    folder = Path("data", options.dataset)
    has_queue, has_bins = (folder / "queue").is_dir(), (folder / "train.bin").exists()
    if options.data_source == "auto" and has_queue and has_bins:
        raise ConfigError(
            f"{folder} holds both train.bin and a queue of batches: set data_source=bins or data_source=queue"
        )
    streams_only = (folder / "prepare_streaming.py").exists() and not (folder / "prepare.py").exists()
    if not has_queue and not has_bins and streams_only:
        raise ConfigError(
            f"{folder} holds no batches yet: run `python {folder / 'prepare_streaming.py'} CONFIG` beside this, with "
            "the same config file, and start when its first files are there"
        )
    takes_queue = has_queue if options.data_source == "auto" else options.data_source == "queue"
    if has_queue or options.data_source != "auto":
        log.info(f"data: from {folder / 'queue' if takes_queue else folder / 'train.bin'}")
    return takes_queue


def checkpoint_file(path: str) -> Path:
    """Return a checkpoint: the file itself, or of a run's folder `ckpt.pt`, or else the newest good one."""
    from core import CheckpointManager

    if os.path.isdir(path):
        return CheckpointManager(path).load(prefer_linked=True).path
    if not os.path.isfile(path):
        raise CheckpointError(f"no checkpoint at {path}: give the folder of a run, or a file in it such as out/ckpt.pt")
    return Path(path)
