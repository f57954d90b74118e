"""A task on the tiny data set, a queue beside it, and a model that knows its vocabulary."""

from pathlib import Path
from typing import Any

import torch

import core
from config.options import Options
from data.meta import read_meta
from extras.tasks import Task
from model import GPT, GPTConfig
from tests.data.streaming.conftest import Noise, producer

TEXT = 17  # of data/tiny
STAGES = [
    {"type": "random", "max_masked_ratio": 0.5, "val_loss_stale_count": 2},
    {"type": "span", "spans_count": 2, "val_loss_stale_count": 2},
]
SCORING = {"training_type": "sequence_scoring", "unmasking_model_checkpoint": "filler.pt"}
QUEUED = {"unmasking": "MLM", "sequence_scoring": "SEQUENCE_SCORING", "language_model": "LM"}


def task(run: core.Runtime, **options: Any) -> Task:
    shape = dict(dataset="tiny", n_layer=1, n_head=1, n_embd=8, block_size=16, batch_size=4, eval_iters=2, max_iters=9)
    return Task(Options(**{**shape, "gradient_accumulation_steps": 2, **options}), run)


def keep_model(path: str, **config: Any) -> None:
    """Save a checkpoint of a new model that knows the tiny data set's vocabulary, but for what `config` says."""
    shape = dict(n_layer=1, n_head=1, n_embd=8, block_size=16, vocab_size=TEXT + 15, bias=False, dropout=0.0)
    args = {**shape, "attention_type": "bidirectional", **config}
    notes = {"training_type": "unmasking", "meta": args.pop("meta", {})}
    torch.save({"model": GPT(GPTConfig(**args)).state_dict(), "model_args": args, "iter_num": 3, "config": notes}, path)


def fill_queue(name: str, training_type: str) -> Path:
    """Fill the queue of data/<name> with two files of three batches, and return its folder."""
    folder = Path("data", name)
    noise = Noise(QUEUED[training_type], batch_size=4, block_size=16)
    noise.meta |= {"mask_token_id": 6, "pad_token_id": 7, "cls_token_id": 8}
    if (folder / "meta.pkl").exists():  # of the same text
        noise.meta |= {name: read_meta(folder / "meta.pkl")[name] for name in ("vocab_size", "stoi", "itos")}
    producer(folder, noise).run(once=True)
    return folder
