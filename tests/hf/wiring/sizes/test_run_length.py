"""Runs of so many epochs on rows: exact over interruptions, each row as often as said, jobs that follow each other."""

import json
from pathlib import Path
from typing import Any

import pytest

import train
from core.checkpoint.find import find_latest_checkpoint
from core.checkpoint.format import load_values
from core.errors import ConfigError
from tools.run_hash import run_hash

ARGV = ["--init_from=hf:gpt2", "--dataset=rows.jsonl", "--device=cpu", "--compile=False", "--block_size=16"]
ARGV += ["--batch_size=4", "--gradient_accumulation_steps=3", "--eval_interval=1000", "--eval_iters=1"]
ARGV += ["--learning_rate=1e-3", "--min_lr=0", "--warmup_ratio=0.2"]
ROWS = 28  # 25 train: of 12 in an update, the third has one row


@pytest.fixture(autouse=True)
def rows(place: Path) -> None:
    lines = [json.dumps({"prompt": f"the king {number}", "response": " speaks to me"}) for number in range(ROWS)]
    (place / "rows.jsonl").write_text("\n".join(lines) + "\n")


def run(*argv: str, callbacks: Any = ()) -> int:
    """Return the updates that the run has made at its end."""
    train.main([*ARGV, *argv], callbacks)
    out = next((word.partition("=")[2] for word in argv if word.startswith("--out_dir=")), "out")
    return int(load_values(find_latest_checkpoint(out))["iter_num"])


@pytest.mark.parametrize("more", [(), ("--packing=True",), ("--optimizer_type=adafactor",)])
def test_a_run_of_epochs_is_exact_over_interruptions(place: Path, more: tuple[str, ...]) -> None:
    """Interrupted within the first and within the last epoch."""
    whole = run("--num_epochs=2", "--out_dir=whole", *more)
    stops = ["--save_interval=1", "--out_dir=parts", *more]

    class Stop:
        def __init__(self, after: int) -> None:
            self.after = after

        def on_step_end(self, trainer: Any, result: Any) -> None:
            if trainer.iter_num == self.after:
                trainer.stop("for the test")

    run("--num_epochs=2", *stops, callbacks=[Stop(0)])
    run("--init_from=resume", "--num_epochs=2", *stops, callbacks=[Stop(whole - 2)])
    assert run("--init_from=resume", "--num_epochs=2", *stops) == whole
    assert run_hash("parts") == run_hash("whole")
    assert more or whole == 5  # 50 rows, 12 in an update


def test_jobs_of_an_epoch_follow_each_other(place: Path) -> None:
    """The last update of each job has one row; three jobs are a run of three epochs in groups of one."""
    jobs = ["--epochs_per_job=1", "--warmup_ratio=0", "--lr_schedule=step", "--lr_gamma=0.5", "--num_epochs=3"]
    assert run(*jobs, "--out_dir=out") == 3
    assert run("--init_from=resume", *jobs) == 6
    assert run("--init_from=resume", *jobs) == 9
    assert run("--init_from=resume", *jobs) == 9  # nothing is left to do
    lines = [json.loads(line) for line in Path("out/metrics.jsonl").read_text().splitlines()]
    rates = [line["lr"] for line in lines if line.get("event") == "step"]
    assert rates == [1e-3] * 3 + [5e-4] * 3 + [2.5e-4] * 3


def test_a_stream_has_no_epochs(place: Path) -> None:
    with pytest.raises(ConfigError, match="num_epochs needs data whose size is known, not a stream or a queue"):
        run("--num_epochs=1", "--streaming=True")
    with pytest.raises(ConfigError, match="lr_schedule=step needs data whose size is known"):
        run("--lr_schedule=step", "--max_iters=3", "--streaming=True")
    with pytest.raises(ConfigError, match="optimizer_type=adafactor has no beta1: remove it"):
        run("--optimizer_type=adafactor", "--beta1=0.8")


def test_the_options_of_such_a_run_load_again(place: Path) -> None:
    """The numbers that follow from num_epochs do not count as the user's: more epochs are more updates."""
    assert run("--num_epochs=1", "--out_dir=out") == 3
    train.main(["out/config.yaml", "--num_epochs=3", "--out_dir=longer"])
    assert load_values(find_latest_checkpoint("longer"))["iter_num"] == 7
    train.main(["--init_from=resume", "--out_dir=out"])
    assert load_values(find_latest_checkpoint("out"))["iter_num"] == 3
