"""
Time and memory of fine-tuning a GPT-2 of Hugging Face, here and with transformers' own Trainer.

    python -m benchmark.trainer                    # a step of 4 x 128, block 64, batch 12; needs pip install -e '.[hf]'
    python -m benchmark.trainer --memory           # peak memory of a model of 50 million parameters

Both train the same weights on the same rows with the same fused AdamW, and the runs alternate in one process. A step is
from its beginning to the beginning of the next one, with everything in between, and its time is the median of a run.
Printed are the medians over all runs, and the ratio of neighbouring runs with a 95 % interval.
"""

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.timing import median_and_interval

os.environ.setdefault("HF_HUB_OFFLINE", "1")
WARM_UP = 10  # steps of a run that are not timed
SHAPES = {  # n_layer, n_head, n_embd, block, batch, vocabulary
    "time": (4, 4, 128, 64, 12, 300),
    "memory": (8, 8, 512, 128, 4, 50257),
}
WORDS = ("the", "king", "queen", "speaks", "to", "me", "and", "you", "of", "war", "love", "night")


def make_inputs(folder: Path, shape: Sequence[int], rows: int) -> None:
    """Write a random model with a tokenizer, and rows that fill the block."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    layers, heads, width, block, _, vocabulary = shape
    draw = random.Random(1)
    texts = [" ".join(draw.choices(WORDS, k=2 * block)) for _ in range(rows)]
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|endoftext|>").save_pretrained(folder / "model")
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=vocabulary, n_positions=block, n_embd=width, n_layer=layers, n_head=heads,
        bos_token_id=0, eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder / "model")
    with open(folder / "rows.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)


def run_ours(folder: Path, shape: Sequence[int], steps: int) -> list[float]:
    """Return the times in seconds at which the steps of a run here begin."""
    import coregpt

    class Clock(coregpt.Callback):
        times: list[float] = []

        def on_step_begin(self, trainer: Any) -> None:
            self.times.append(time.perf_counter())

    clock = Clock()
    clock.times = []
    options = {
        "init_from": f"hf:{folder / 'model'}", "dataset": str(folder / "rows.jsonl"), "out_dir": str(folder / "out"),
        "device": "cpu", "compile": False, "dtype": "float32", "block_size": shape[3], "batch_size": shape[4],
        "gradient_accumulation_steps": 1, "max_iters": steps, "eval_interval": 10**9, "eval_iters": 1,
        "log_interval": 10**9, "warmup_iters": 0, "lr_schedule": "constant", "learning_rate": 1e-4,
        "weight_decay": 0.1, "beta2": 0.999, "always_save_checkpoint": False,
    }  # fmt: skip
    coregpt.train(options, callbacks=[clock])
    return clock.times


def run_theirs(folder: Path, shape: Sequence[int], steps: int) -> list[float]:
    """Return the times in seconds at which the steps of a run of transformers' Trainer begin."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments
    from transformers.data import default_data_collator

    times: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            times.append(time.perf_counter())

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    lines = (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    ids = [tokenizer(json.loads(line)["text"]).input_ids[: shape[3]] for line in lines]
    rows = Dataset.from_dict({"input_ids": ids, "labels": ids, "attention_mask": [[1] * len(row) for row in ids]})
    arguments = TrainingArguments(
        str(folder / "theirs"), per_device_train_batch_size=shape[4], max_steps=steps, learning_rate=1e-4,
        lr_scheduler_type="constant", weight_decay=0.1, logging_strategy="no", save_strategy="no", report_to=[],
        use_cpu=True, disable_tqdm=True, optim="adamw_torch_fused", seed=1,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    Trainer(model, arguments, train_dataset=rows, data_collator=default_data_collator, callbacks=[Clock()]).train()
    return times


RUNS = {"ours": run_ours, "theirs": run_theirs}


def step_ms(times: Sequence[float]) -> float:
    """Return the median time of the steps after the warm-up."""
    return statistics.median(b - a for a, b in zip(times[WARM_UP:], times[WARM_UP + 1 :], strict=False)) * 1e3


def compare_times(rounds: int, steps: int) -> tuple[dict[str, float], list[float]]:
    """Return the median step of each, and its quotients in rounds, ours to theirs, whose order alternates."""
    found: dict[str, list[float]] = {name: [] for name in RUNS}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_inputs(folder, SHAPES["time"], rows=600)
        for number in range(rounds):
            for name in sorted(RUNS, reverse=bool(number % 2)):
                found[name].append(step_ms(RUNS[name](folder, SHAPES["time"], steps)))
    ratios = [ours / theirs for ours, theirs in zip(found["ours"], found["theirs"], strict=True)]
    return {name: statistics.median(values) for name, values in found.items()}, ratios


def peak_mib(name: str) -> float:
    """Return the peak memory of a process that trains the large model for a few steps."""
    with tempfile.TemporaryDirectory() as place:
        make_inputs(Path(place), SHAPES["memory"], rows=40)
        command = [sys.executable, "-m", "benchmark.trainer", "--one", name, "--folder", place]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    """Compare, as the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--memory", action="store_true", help="peak memory in place of times")
    parser.add_argument("--one", choices=list(RUNS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        RUNS[given.one](given.folder, SHAPES["memory"], 5)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    elif given.memory:
        peaks = {name: statistics.median(peak_mib(name) for _ in range(3)) for name in RUNS}
        print(f"peak memory: ours {peaks['ours']:.0f} MiB, the Trainer's {peaks['theirs']:.0f} MiB, "
              f"{peaks['ours'] / peaks['theirs']:.4f}")  # fmt: skip
    else:
        medians, ratios = compare_times(given.rounds, given.steps)
        print(f"step: ours {medians['ours']:.2f} ms, the Trainer's {medians['theirs']:.2f} ms, "
              f"{median_and_interval(ratios)}")  # fmt: skip


if __name__ == "__main__":
    main()
