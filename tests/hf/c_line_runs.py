"""Runs of the C line, as far as its checkpoints show: one AdamW group of all parameters, a folder for each step."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import get_linear_schedule_with_warmup

from tests.hf.conftest import VOCAB

SETTINGS: dict[str, Any] = {"lr": 1e-2, "weight_decay": 0.01, "betas": (0.8, 0.95), "eps": 1e-7}
State = dict[str, Any]


def trained(model: Any, steps: int, settings: State = SETTINGS) -> tuple[Any, Any]:
    """Train a model of transformers or peft in place. Return its optimizer and its schedule."""
    optimizer = torch.optim.AdamW(model.parameters(), **settings)
    schedule = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=2, num_training_steps=100)
    draw = torch.Generator().manual_seed(8)
    model.train()
    for _ in range(steps):
        ids = torch.randint(1, VOCAB, (4, 9), generator=draw)
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return optimizer, schedule


def training_state(step: int, optimizer: Any, schedule: Any) -> State:
    """Return what training_state.pt holds at a step."""
    rng = {
        "python_rng_state": random.getstate(),
        "numpy_rng_state": np.random.get_state(),
        "torch_rng_state": torch.get_rng_state(),
        "cuda_rng_state_all": [torch.get_rng_state()],
    }
    return {
        "global_step": step,
        "epoch": 1,
        "best_loss": 0.25,
        "epoch_losses": [3.5, np.float64(2.5)],
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": schedule.state_dict(),
        "rng_states": rng,
    }


def save(out_dir: Path, model: Any, tokenizer: Any, step: int, optimizer: Any, schedule: Any) -> Path:
    """Write the folder of a step, and return it."""
    folder = out_dir / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.save(training_state(step, optimizer, schedule), folder / "training_state.pt")
    return folder
