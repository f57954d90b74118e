"""
Run a training script unchanged and record in a folder: every checkpoint as <iter_num>.pt, the learning rates of every
update (rates.json), and every record sent to Weights & Biases (wandb.json).

    python benchmark/record.py FOLDER SCRIPT [ARGUMENT ...]

A stand-in module with the few names that training scripts use replaces wandb, so nothing is sent.
"""

import json
import os
import runpy
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook


def recording_wandb(records: list[dict[str, Any]]) -> ModuleType:
    """Return a stand-in for the wandb module that appends every logged record to `records`."""

    def log(metrics: dict[str, Any]) -> None:
        plain = {key: getattr(value, "item", lambda value=value: value)() for key, value in metrics.items()}
        records.append(plain)

    module = ModuleType("wandb")
    module.__spec__ = ModuleSpec("wandb", None)  # other packages look for one to know that wandb is there
    run = SimpleNamespace(log=log, finish=lambda: None, id="stand-in", starting_step=0)
    names = {"log": log, "init": lambda **_: run, "login": lambda prompt=True, verify=True: True}
    vars(module).update(names, Settings=lambda **_: None, errors=SimpleNamespace(UsageError=RuntimeError))
    return module


def main(folder: str, script: str, arguments: list[str]) -> None:
    """Run `script` as a program while recording calls of `torch.save`, the optimizers and wandb."""
    save = torch.save
    rates: list[list[float]] = []
    records: list[dict[str, Any]] = []

    def save_twice(content: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        save(content, path, *args, **kwargs)
        if isinstance(content, dict) and "iter_num" in content:  # a checkpoint; torch itself saves other objects, too
            save(content, os.path.join(folder, f"{content['iter_num']}.pt"))

    def record_rate(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        rates.append([group["lr"] for group in optimizer.param_groups])

    torch.save = save_twice  # type: ignore[assignment]
    sys.modules["wandb"] = recording_wandb(records)
    sys.argv = [script, *arguments]
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    hook = register_optimizer_step_pre_hook(record_rate)
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        hook.remove()
    if os.environ.get("RANK", "0") == "0":
        Path(folder, "rates.json").write_text(json.dumps(rates))
        Path(folder, "wandb.json").write_text(json.dumps(records))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
