"""Runs the project's programs as a user does, by their command lines; in forks of this process, which has torch loaded.

Everything is relative to the current folder: the data sets in data/, the run folders, stdout.txt and stderr.txt.
"""

import json
import os
import re
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmark.data_sets import write_data_set
from benchmark.soak import campaign
from core import CheckpointManager
from model import GPT, GPTConfig

ROOT = Path(__file__).resolve().parents[2]
# a model of a few thousand weights, a run of five updates
TINY = [
    f"--{name}={value}"
    for name, value in dict(
        device="cpu", compile=False, n_layer=1, n_head=2, n_embd=32, block_size=16, batch_size=4, dropout=0.0,
        gradient_accumulation_steps=1, max_iters=4, lr_decay_iters=4, warmup_iters=0, eval_interval=2, eval_iters=2,
        log_interval=1, learning_rate=1e-3,
    ).items()
]  # fmt: skip

_started: set[int] = set()  # processes that nobody has waited for


class Ended(NamedTuple):
    """A program that has ended."""

    status: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """The sampled text, without the lines before it and the ruler after it."""
        assert self.status == 0, self
        text = self.out.partition("number of parameters: ")[2].partition("\n")[2]
        return re.sub(r"^Loading meta from .*\n", "", text)

    @property
    def message(self) -> str:
        """The one message of a program that has refused its input."""
        assert self.status == 2 and "Traceback" not in self.out + self.err, self
        assert self.err.count("error: ") == 1, self
        return self.err.partition("error: ")[2]


def start(script: str, *flags: str, encoding: str = "utf-8", **environment: str) -> int:
    """Start `python script flags...` and return its process id. encoding: of its stdout"""

    def program() -> None:
        sys.argv = [script, *flags]
        sys.stdout = open(1, "w", encoding=encoding, buffering=1, closefd=False)  # noqa: SIM115  for the whole process
        runpy.run_path(str(ROOT / script), run_name="__main__")

    for name in ("stdout.txt", "stderr.txt"):
        Path(name).unlink(missing_ok=True)
    process = campaign.start(program, environment=environment)
    _started.add(process)
    return process


def end(process: int) -> Ended:
    """Wait for a started program."""
    _started.discard(process)  # whether it ends or has to be killed
    (status,) = campaign.wait([process])
    out, err = (Path(name).read_bytes().decode(errors="replace") for name in ("stdout.txt", "stderr.txt"))
    return Ended(status, out, err)


def kill_started() -> None:
    """Kill the programs that nobody has waited for, because a test has failed."""
    while _started:
        process = _started.pop()
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def train(*flags: str, **environment: str) -> Ended:
    """Run `python train.py` with the flags of a tiny model and these."""
    return end(start("train.py", *TINY, *flags, **environment))


def sample(*flags: str, **environment: str) -> Ended:
    """Run `python sample.py` for one short text."""
    return end(start("sample.py", "--device=cpu", "--num_samples=1", "--max_new_tokens=20", *flags, **environment))


def logged(folder: str, event: str = "step") -> list[dict[str, Any]]:
    """Return the events of a kind in the log of a run."""
    lines = map(json.loads, Path(folder, "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["event"] == event]


def losses(folder: str) -> list[float]:
    """Return the losses of all updates of a run."""
    return [line["loss"] for line in logged(folder)]


def newest(folder: str) -> dict[str, Any]:
    """Return the manifest of a run's newest checkpoint."""
    manifest = CheckpointManager(folder).load().manifest
    assert manifest is not None
    return manifest


def waiting_batch(folder: str) -> torch.Tensor:
    """Return the inputs (B, T) of the batch that the newest checkpoint of a run keeps for its next update."""
    path = CheckpointManager(folder).load().path
    batch: torch.Tensor = torch.load(path, weights_only=True)["ranks"][0]["batch"][0]
    return batch


def characters(name: str, *lines: str) -> None:
    """Make data/<name>, a data set of the characters of these lines, which are repeated to some 4000 tokens."""
    text = "\n".join(lines) + "\n"
    vocabulary = sorted(set(text))
    ids = np.array([vocabulary.index(char) for char in text * (4000 // len(text) + 1)])
    write_data_set(Path("data", name), {"train": ids, "val": ids}, vocabulary)


def nanogpt_checkpoint(folder: str, edit: Callable[[dict[str, Any]], Any] = lambda content: None) -> GPT:
    """Save what nanoGPT has after three updates on data/letters. edit: changes the content; returns the model"""
    torch.manual_seed(1)
    args = dict(n_layer=2, n_head=2, n_embd=32, block_size=16, bias=True, vocab_size=10, dropout=0.0)
    model = GPT(GPTConfig(**args))
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cpu")
    for _ in range(3):
        tokens = torch.randint(10, (4, 17))
        model(tokens[:, :-1], tokens[:, 1:])[1].backward()
        optimizer.step()
        optimizer.zero_grad()
    content = {
        "model": {name: tensor.detach().clone() for name, tensor in model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "model_args": args,
        "iter_num": 3,
        "best_val_loss": torch.tensor(4.0),
        "config": {"dataset": "letters", "batch_size": 4, "block_size": 16},
    }
    edit(content)
    os.makedirs(folder, exist_ok=True)
    torch.save(content, Path(folder, "ckpt.pt"))
    return model
