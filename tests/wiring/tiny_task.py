"""The parts of a run on the tiny data set, a queue of batches, and a saved model with the same vocabulary."""

from pathlib import Path
from typing import Any

import torch

import core
from config.options import Options
from data.meta import read_meta
from extras.run_record import RunRecord
from model import GPT, GPTConfig
from tests.data.streaming.conftest import Noise, producer
from wiring.checkpoints import make_checkpointer
from wiring.data import RunData, open_data
from wiring.model import check_task, model_args
from wiring.objective import Learning, make_objective
from wiring.watchers import callbacks, loggers

TEXT = 17  # characters in data/tiny
STAGES = [
    {"type": "random", "max_masked_ratio": 0.5, "val_loss_stale_count": 2},
    {"type": "span", "spans_count": 2, "val_loss_stale_count": 2},
]
SCORING = {"training_type": "sequence_scoring", "unmasking_model_checkpoint": "filler.pt"}
QUEUED = {"unmasking": "MLM", "sequence_scoring": "SEQUENCE_SCORING", "language_model": "LM"}


class Task:
    """The parts that `wiring` makes from options."""

    def __init__(self, run: core.Runtime, options: Options) -> None:
        self.run = run
        self.options = options
        self.run_data: RunData = open_data(options, run, core.Preemption())
        self.data: Any = self.run_data.batches
        self.source: Any = self.run_data.source
        self.vocabulary: Any = self.run_data.vocabulary
        self.learning: Learning | None = None

    def model_args(self) -> dict[str, Any]:
        return model_args(self.options, self.run_data)

    def check(self, args: dict[str, Any], checkpoint: dict[str, Any] | None) -> None:
        check_task(self.options, self.run_data, args, checkpoint)

    def objective(self, initializer: core.ModelInitializer) -> core.Objective:
        detector = core.InstabilityDetector()
        self.learning = make_objective(self.options, self.run, self.run_data, initializer, detector)
        return self.learning.objective

    @property
    def modifiers(self) -> Any:
        return self.learning.modifiers if self.learning else None

    def callbacks(self, *of_user: Any) -> list[core.Callback]:
        schedule = core.ConstantLRScheduler(1.0, 0)
        made = callbacks(self.options, self.run, self.run_data, self.modifiers, schedule, [], of_user)
        return [callback for callback in made if not isinstance(callback, RunRecord)]  # every training run has it

    def loggers(self) -> list[core.Logger]:
        """Return the loggers without the JsonlLogger."""
        return [
            logger
            for logger in loggers(self.options, self.run, self.modifiers, None)
            if not isinstance(logger, core.JsonlLogger)
        ]

    def saved_config(self) -> dict[str, Any]:
        """Return the config that is saved in checkpoints."""
        model = torch.nn.Linear(1, 1)
        step = core.TrainingStep(
            model, core.LanguageModeling(), torch.optim.SGD(model.parameters()), self.run_data.draw
        )
        manager, detector = core.CheckpointManager(self.options.out_dir), core.InstabilityDetector()
        parts = model, {}, lambda: (core.LoadedModel(model, {}), None), step, manager, detector
        return make_checkpointer(self.options, self.run, self.run_data, *parts).notes.config


def task(run: core.Runtime, **options: Any) -> Task:
    shape = dict(dataset="tiny", n_layer=1, n_head=1, n_embd=8, block_size=16, batch_size=4, eval_iters=2, max_iters=9)
    return Task(run, Options(**{**shape, "gradient_accumulation_steps": 2, **options}))


def save_model(path: str, **config: Any) -> None:
    """Save a checkpoint of a new model with the vocabulary of the tiny data set; `config` overrides its arguments."""
    shape = dict(n_layer=1, n_head=1, n_embd=8, block_size=16, vocab_size=TEXT + 15, bias=False, dropout=0.0)
    args = {**shape, "attention_type": "bidirectional", **config}
    notes = {"training_type": "unmasking", "meta": args.pop("meta", {})}
    torch.save({"model": GPT(GPTConfig(**args)).state_dict(), "model_args": args, "iter_num": 3, "config": notes}, path)


def fill_queue(name: str, training_type: str) -> Path:
    """Fill the queue of data/<name> with two files of three batches, and return its folder."""
    folder = Path("data", name)
    noise = Noise(QUEUED[training_type], batch_size=4, block_size=16)
    noise.meta |= {"mask_token_id": 6, "pad_token_id": 7, "cls_token_id": 8}
    if (folder / "meta.pkl").exists():  # the queue belongs to an existing data set
        noise.meta |= {name: read_meta(folder / "meta.pkl")[name] for name in ("vocab_size", "stoi", "itos")}
    producer(folder, noise).run(once=True)
    return folder
