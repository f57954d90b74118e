"""auto_batch_size: the largest batch that fits, with the same update, and nothing else changed."""

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import core
import coregpt
import train
from benchmark.soak.campaign import ranks
from core.checkpoint.format import load_values
from model import GPT, GPTConfig
from tools.run_hash import run_hash

AUTO = "--auto_batch_size=True"
ROOT = Path(__file__).resolve().parents[3]


class Memory:
    """An objective that runs out of memory for batches of more than `limit` sequences; `sizes` are those it was given.

    kind: of error
    """

    def __init__(self, limit: int, error: Exception | None = None) -> None:
        self.limit, self.sizes = limit, list[int]()
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    def __call__(self, model: Any, batch: Any, train: bool) -> torch.Tensor:
        self.sizes.append(len(batch[0]))
        if self.sizes[-1] > self.limit:
            raise self.error
        loss: torch.Tensor = model(*batch)[1]
        return loss


def sizes_of(out_dir: str = "out") -> tuple[int, int]:
    config = load_values(core.find_latest_checkpoint(out_dir))["config"]
    return config["batch_size"], config["gradient_accumulation_steps"]


@pytest.mark.parametrize(
    "flags", [[], ["--training_type=unmasking"], ["--training_type=token_classification"]], ids=str
)
def test_a_run_whose_batches_fit_is_the_same(
    run_dir: Path, tiny_argv: list[str], flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    train.main([*tiny_argv, *flags, "--out_dir=plain"])
    plain = capsys.readouterr()
    train.main([*tiny_argv, *flags, "--out_dir=auto", AUTO])
    auto = capsys.readouterr()

    assert run_hash("auto") == run_hash("plain") and sizes_of("auto") == (4, 2)
    assert len(auto.out.splitlines()) == len(plain.out.splitlines()) + 1  # Overriding: auto_batch_size = True
    line = "auto_batch_size: batch_size=4 fits, with gradient_accumulation_steps=2\n"
    assert line in auto.err and len(auto.err.splitlines()) == len(plain.err.splitlines()) + 1


@pytest.mark.parametrize(
    ("limit", "tried", "found"),
    [
        (12, [12], (12, 2)),
        (11, [12, 8], (8, 3)),
        (5, [12, 8, 6, 4], (4, 6)),
        (1, [12, 8, 6, 4, 3, 2, 1], (1, 24)),
    ],
)
def test_the_largest_divisor_that_fits_is_taken(
    run_dir: Path,
    tiny_argv: list[str],
    limit: int,
    tried: list[int],
    found: tuple[int, int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """12 x 2 sequences are an update, whatever the batch size."""
    memory = Memory(limit)
    coregpt.train([*tiny_argv, "--batch_size=12", "--max_iters=2", AUTO], objective=memory)

    assert memory.sizes[: len(tried)] == tried and set(memory.sizes[len(tried) :]) == {found[0]}  # the latter twice
    assert sizes_of() == found
    said = "" if limit == 12 else "not batch_size=12, but "
    line = f"auto_batch_size: {said}batch_size={found[0]} fits, with gradient_accumulation_steps={found[1]}\n"
    assert capsys.readouterr().err.count(line) == 1


def test_the_smaller_batches_make_the_run_that_they_would_make_without_it(run_dir: Path, tiny_argv: list[str]) -> None:
    argv = [*tiny_argv, "--batch_size=8"]
    coregpt.train([*argv, AUTO, "--out_dir=auto"], objective=Memory(3))
    given = ["--batch_size=2", "--gradient_accumulation_steps=8"]
    coregpt.train([*argv, *given, "--out_dir=given"], objective=Memory(3))
    assert run_hash("auto") == run_hash("given")


def test_a_resume_keeps_the_size_unless_it_does_not_fit(run_dir: Path, tiny_argv: list[str]) -> None:
    argv = [*tiny_argv, "--batch_size=12", AUTO]
    coregpt.train([*argv, "--max_iters=2"], objective=Memory(5))
    coregpt.train([*argv, "--max_iters=4", "--init_from=resume"], objective=Memory(99))
    assert sizes_of() == (4, 6)
    coregpt.train([*argv, "--max_iters=6", "--init_from=resume"], objective=Memory(2))
    assert sizes_of() == (2, 12)
    coregpt.train([*argv, "--max_iters=8", "--init_from=resume", "--batch_size=6"], objective=Memory(99))
    assert sizes_of() == (6, 2)  # another update is asked for


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 549755813888 bytes."),
        MemoryError(),
    ],
    ids=str,
)
def test_the_errors_of_a_cpu_count(run_dir: Path, tiny_argv: list[str], error: Exception) -> None:
    coregpt.train([*tiny_argv, AUTO, "--max_iters=0", "--save_interval=1"], objective=Memory(1, error))
    assert sizes_of() == (1, 8)


def test_another_error_ends_the_run(run_dir: Path, tiny_argv: list[str]) -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        coregpt.train(
            [*tiny_argv, AUTO], objective=Memory(1, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
        )
    assert not Path("out").exists()


def test_memory_without_room_for_one_sequence_is_one_sentence(run_dir: Path, tiny_argv: list[str]) -> None:
    with pytest.raises(coregpt.ConfigError, match="auto_batch_size=True: not even a batch of one sequence fits into"):
        coregpt.train([*tiny_argv, AUTO], objective=Memory(0))


class OwnData:
    def get_batch(self, split: str) -> Any:
        return torch.zeros(2, 4, dtype=torch.long), torch.zeros(2, 4, dtype=torch.long)


def test_parts_from_python_are_not_tried(run_dir: Path, tiny_argv: list[str]) -> None:
    for parts in (
        {"data": OwnData()},
        {"model": GPT(GPTConfig(n_layer=1, n_head=1, n_embd=8, block_size=16, vocab_size=17))},
    ):
        with pytest.raises(
            coregpt.ConfigError, match="auto_batch_size=True tries batches of the data set on the model"
        ):
            coregpt.train([*tiny_argv, AUTO], **parts)  # type: ignore[arg-type]


def test_all_ranks_take_the_size_that_fits_on_each(run_dir: Path, tiny_argv: list[str]) -> None:
    """Rank 0 has room for 8 sequences, rank 1 for 3: an update is 8 x 2 on each."""

    def work() -> None:
        limit = 8 if __import__("os").environ["RANK"] == "0" else 3
        argv = [*tiny_argv, "--batch_size=8", "--gradient_accumulation_steps=4", AUTO, "--max_iters=1"]
        coregpt.train(argv, objective=Memory(limit))

    assert ranks(work) == [0, 0]  # type: ignore[arg-type,comparison-overlap]
    assert sizes_of() == (2, 16)


LIMITED = """
import resource, sys
import train
used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 700 * 2**20,) * 2)
train.main(sys.argv[1:])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the memory as Linux does")
def test_a_machine_that_runs_out_of_memory_trains_with_smaller_batches(run_dir: Path, tiny_argv: list[str]) -> None:
    """A batch of 32768 sequences takes 4 GB; a process with room for 0.7 GB trains with a part of it."""
    argv = [*tiny_argv, "--batch_size=32768", "--gradient_accumulation_steps=1", "--max_iters=0", "--eval_iters=1"]
    command = [sys.executable, "-c", LIMITED, *argv]
    run = functools.partial(subprocess.run, cwd=run_dir, capture_output=True, text=True)
    environment = {**__import__("os").environ, "PYTHONPATH": str(ROOT)}
    plain = run(command, env=environment)
    assert plain.returncode != 0 and "can't allocate memory" in plain.stderr
    fitted = run([*command, AUTO], env=environment)
    assert fitted.returncode == 0, fitted.stderr[-1000:]
    size, steps = sizes_of(str(run_dir / "out"))
    assert size * steps == 32768 and size < 32768
