"""What a run learns: its options turned into data, objective and loss modifiers."""

from __future__ import annotations

import logging
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from core.checkpoint.find import find_checkpoint
from core.errors import ConfigError
from extras import sources
from extras.frozen import load_filler, load_judge
from extras.stage_progress import StageProgress
from extras.validation_timer import ValidationTimer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from config.options import Options
    from core import Callback, Logger, ModelInitializer, Objective, Runtime
    from data.vocabulary import Vocabulary
    from extras.filler import Filler
    from loss_modifiers import Judge, LossModifierPipeline

log = logging.getLogger("coregpt")


class Task:
    """The parts of a run that depend on what it learns; `train.py` asks for each when it is its turn.

    For the next token they are nanoGPT's: `TokenBins`, and a `LanguageModeling` that uses the model's own loss.
    `source` is where the tokens are: train.bin and val.bin, or a queue of batches that are made already; `data` is
    what makes batches of them.
    """

    def __init__(self, options: Options, run: Runtime) -> None:
        self.options = options
        self.run = run
        stages = sources.read_stages(options)  # what is wrong with them is told, also where nothing comes of them
        self.from_queue = sources.takes_queue(options)
        self.source: Any
        self.source = sources.open_queue(options, run) if self.from_queue else sources.open_bins(options, run)
        self.data: Any = self.source
        if self.makes_gaps:
            self.data = sources.make_gaps(self.source, options, stages, self.vocabulary, run)
        self.progress = self._progress()
        if self.progress:
            self.data.reached = self.progress.reached
        self.files: list[Path] = []  # checkpoints of other runs that this one needs
        self.timer = ValidationTimer()
        self.modifiers: LossModifierPipeline | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is the next token that is learnt."""
        return self.options.training_type == "language_model"

    @property
    def makes_gaps(self) -> bool:
        """Whether batches are made here, from a text; else they are taken as they come."""
        return not (self.is_plain or self.from_queue)

    @property
    def vocab_size(self) -> int | None:
        """Size of the model's vocabulary; None where nothing says."""
        return self.text_vocab_size if self.is_plain else self.vocabulary.size

    @property
    def text_vocab_size(self) -> int | None:
        """Size of the data set's own vocabulary, where it says; a queue's has its special ids in it."""
        size: int | None = self.source.vocab_size
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
        classes = model_args.get("num_token_classes")
        if wanted == "token_classification" and classes != self.options.num_token_classes:
            raise ConfigError(
                f"the checkpoint's classifier tells {classes} classes apart, not {self.options.num_token_classes}: set "
                f"num_token_classes={classes}"
            )
        cls_token_id = model_args.get("cls_token_id")
        if wanted == "sequence_scoring" and cls_token_id != self.vocabulary.cls:
            raise ConfigError(
                f"the checkpoint's scorer reads from token {cls_token_id}, here CLS is {self.vocabulary.cls}: set "
                f"cls_token_id={cls_token_id}"
            )
        mask = (notes.get("meta") or notes).get("mask_token_id")
        if not self.is_plain and mask not in (None, self.vocabulary.mask):
            raise ConfigError(
                f"the checkpoint's run had mask_token_id={mask}, here it is {self.vocabulary.mask}: set "
                f"mask_token_id={mask}"
            )
        if self.makes_gaps and self.vocabulary.size > model_args["vocab_size"]:
            raise ConfigError(
                f"the model knows {model_args['vocab_size']} token ids, wanted {self.vocabulary.size}: the text's "
                f"{self.vocabulary.text}, and the mask's {self.vocabulary.mask} and others beyond them; start from "
                "these weights with init_from_checkpoint instead, which makes room"
            )
        self.source.check_vocab(self.vocabulary.text if self.makes_gaps else model_args["vocab_size"])

    def fingerprint(self) -> str:
        """Return a short hash of the data."""
        return str(self.source.fingerprint())

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The text's token ids, and those beyond them. Raises ConfigError for ids that are not a queue's."""
        from data.vocabulary import Vocabulary

        mask, cls_token = self.options.mask_token_id, self.options.cls_token_id
        if not self.from_queue:
            text = self.source.vocab_size or sources.GPT2_TOKENS
            return Vocabulary.beyond(text, mask=mask, cls_token=cls_token)
        scoring, meta = self.options.training_type == "sequence_scoring", self.source.meta
        if scoring and meta.get("cls_token_id") is None:
            raise ConfigError(f"{self.source.meta_path} has no cls_token_id, which a scorer reads its score from")
        for name, given in (("mask_token_id", mask), ("cls_token_id", cls_token if scoring else None)):
            if given not in (None, meta.get(name)):
                raise ConfigError(
                    f"{name}={given}, but in {self.source.meta_path} it is {meta.get(name)}: leave it out"
                )
        return Vocabulary.of(meta, self.source.vocab_size)

    def notes(self) -> dict[str, Any]:
        """Return what checkpoints keep beside the options: the ids beyond the text, for runs that ask this model."""
        return {} if self.is_plain else {"meta": self.vocabulary.meta()}

    def model_args(self) -> dict[str, Any]:
        """Return the model's arguments as checkpoints keep them."""
        args = self.options.model_args(self.vocab_size)
        if self.options.training_type == "sequence_scoring":
            args["cls_token_id"] = self.vocabulary.cls
        return args

    def wait_for_data(self) -> None:
        """Return when the first batches are there; those of a queue may still be in the making."""
        if self.from_queue:
            self.source.wait()

    def eval_draw(self, draw: Callable[[str], Any]) -> Callable[[str], Any]:
        """Return what evaluations draw their batches from; `draw`, as in nanoGPT, for the next token."""
        if self.is_plain and not self.from_queue:
            return draw
        return self.timer.timed(self.data.get_eval_batch)

    def _progress(self) -> StageProgress | None:
        """Return what lets training go from stage to stage; None where it draws from all of them all the time."""
        options = self.options
        if not self.makes_gaps or options.training_type != "unmasking" or options.use_all_stages_for_training:
            return None
        return StageProgress(self.data.training) if len(self.data.training) > 1 else None

    # what is made of its batches

    def objective(self, initializer: ModelInitializer) -> Objective:
        """Return what a training step computes, with the frozen models it needs loaded."""
        from core import LanguageModeling
        from extras.modifiers import create_loss_modifier_pipeline
        from extras.objectives import SequenceScoring, TokenClassification, Unmasking

        options = self.options
        special = range(self.vocabulary.text, self.vocabulary.size) if options.uncertainty_factor else ()
        modifiers = create_loss_modifier_pipeline(
            options, special=special, device=self.run.device,
            rank=self.run.rank, load_judge=partial(self._judge, initializer),
        )  # fmt: skip
        if not modifiers.is_empty():
            self.modifiers = modifiers
            log.info(f"loss modifiers: {', '.join(modifiers.get_enabled_modifier_names())}")
        if options.training_type == "unmasking":
            return Unmasking(options.loss_mean, self.modifiers)
        if options.training_type == "token_classification":
            return TokenClassification(options.num_token_classes, options.class_weights == "balanced", self.modifiers)
        if options.training_type == "sequence_scoring":
            filler = None if self.from_queue else self._filler(initializer)
            return SequenceScoring(self.vocabulary.cls, filler, options.score_transform, self.modifiers)
        return LanguageModeling(self.modifiers)

    def _filler(self, initializer: ModelInitializer) -> Filler:
        options = self.options
        if not options.unmasking_model_checkpoint:
            raise ConfigError(
                "training_type=sequence_scoring needs a model that fills the gaps: set "
                "unmasking_model_checkpoint to the folder of an unmasking run"
            )
        path = self._file(options.unmasking_model_checkpoint)
        return load_filler(
            initializer, path, self.vocabulary, options.block_size - 1,  # CLS goes before the text
            sample=options.fill == "sample", temperature=options.fill_temperature, top_k=options.fill_top_k,
        )  # fmt: skip

    def _judge(self, initializer: ModelInitializer, path: str, transformed: bool) -> Judge:
        return load_judge(initializer, self._file(path), self.vocabulary, self.options.block_size, transformed)

    @cached_property
    def transfer_source(self) -> Path | None:
        """The checkpoint that a new model starts from, the same one each time it is made; None for none."""
        given = self.options.init_from_checkpoint
        return self._file(given) if given else None

    def _file(self, path: str) -> Path:
        """Return a checkpoint's file, the same on all ranks, whoever writes in that folder meanwhile."""
        file = self.run.on_master(lambda: find_checkpoint(path))
        self.files.append(file)
        return file

    # what goes along

    def callbacks(self) -> list[Callback]:
        """Return what listens to the run: modifiers and stages, what empties a queue, the clock of evaluations."""
        from extras.iteration_clock import IterationClock
        from extras.queue_release import QueueRelease

        listeners: list[Any] = [part for part in (self.modifiers, self.data) if hasattr(part, "iter_num")]
        found: list[Callback] = [IterationClock(listeners)] if listeners else []
        if self.from_queue:
            found.append(QueueRelease(self.source))
        if not self.is_plain:
            found.append(self.timer)
        return [*found, self.progress] if self.progress else found

    def loggers(self) -> list[Logger]:
        """Return what prints the lines that the task adds to nanoGPT's."""
        from extras.objective_lines import ObjectiveLines

        options = self.options
        if not self.run.is_master or (self.is_plain and self.modifiers is None):
            return []
        return [ObjectiveLines(options.training_type, options.max_entropy_penalty)]
