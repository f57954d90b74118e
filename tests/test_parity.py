"""The trainer and the flat loop, benchmark/reference.py, give bitwise equal losses, weights, optimizer and best loss.

The rows run both programs in this process or in forks of it; in one of them torchrun starts ours.
"""

import contextlib
import io
import re
import shutil
import sys
import warnings
from pathlib import Path

import pytest
import torch

from benchmark import record
from benchmark.compare_legacy import (
    ROOT,
    TINY,
    Combination,
    Processes,
    Side,
    combinations,
    compare,
    differences,
    flags,
    make_data,
    run_combination,
    same_bits,
)
from benchmark.soak.campaign import ranks

REFERENCE = ROOT / "benchmark" / "reference.py"
ITERS = 9
TINY_GPT2 = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 64, "vocab_size": 50304}
PRETRAINED = {"init_from": "gpt2-tiny", "dataset": "words"}
ONE_PROCESS = [row for row in combinations() if row.processes == 1 and not {"compile", "init_from"} & set(row.options)]
ONE_PROCESS += [
    Combination("pretrained", {**PRETRAINED, "dropout": 0.2}),
    Combination("pretrained-cropped", {**PRETRAINED, "block_size": 8, "gradient_accumulation_steps": 4}),
]
TWO_RANKS = {row.name: row for row in combinations() if row.processes == 2}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("parity"), {"gpt2-tiny": TINY_GPT2})


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch):
    """Run a script in this process as `python record.py` would."""

    def run(folder: Path, script: Path, arguments: list[str], processes: int) -> str:
        printed = io.StringIO()
        with monkeypatch.context() as patch, contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Hugging Face's, while it loads
            patch.chdir(folder)
            patch.setattr(torch, "save", torch.save)  # record.py replaces it; the context restores it
            patch.setattr(sys, "argv", [])
            patch.setitem(sys.modules, "wandb", None)  # as above
            patch.setattr(sys, "path", [*sys.path])
            patch.setenv("HF_HUB_OFFLINE", "1")
            record.main(str(folder / "kept"), str(script), arguments)
        return printed.getvalue()

    return run


@pytest.mark.parametrize("row", ONE_PROCESS, ids=lambda row: row.name)
def test_same_bits_as_the_flat_loop(row: Combination, data: Path, launch) -> None:
    assert run_combination(row, REFERENCE, data, ITERS, launch) == []


def forked_ranks(folder: Path, script: Path, arguments: list[str], processes: int) -> str:
    """Run a script on all ranks in forks of this process, which do not import torch again."""
    output, errors = folder / "stdout.txt", folder / "stderr.txt"
    output.unlink(missing_ok=True)
    statuses = ranks(lambda: record.main(str(folder / "kept"), str(script), arguments), processes, folder)
    assert statuses == [0] * processes, errors.read_text()
    return output.read_text()


def test_same_bits_as_the_flat_loop_on_two_ranks(data: Path) -> None:
    assert run_combination(TWO_RANKS["two-ranks-resume"], REFERENCE, data, ITERS, forked_ranks) == []


def test_same_bits_as_the_flat_loop_under_torchrun(data: Path, tmp_path: Path) -> None:
    legacy = Side.in_new_folder(REFERENCE, tmp_path / "legacy", data, forked_ranks)
    ours = Side.in_new_folder(ROOT / "train.py", tmp_path / "ours", data, Processes())
    row = TWO_RANKS["two-ranks-dropout"]

    assert compare(legacy, ours, flags({**TINY, **row.options}), ITERS, resume=False, processes=2) == []


def test_same_stdout_as_the_flat_loop(data: Path, tmp_path: Path) -> None:
    """All bytes are equal except for times and mfu."""
    sides = [
        Side.in_new_folder(script, tmp_path / script.stem, data, forked_ranks)
        for script in (REFERENCE, ROOT / "train.py")
    ]
    for side in sides:
        side.run([*flags(TINY), "--out_dir=out", "--max_iters=8", "--eval_interval=4"])
    reference, ours = (without_times(side.output) for side in sides)

    assert ours == reference
    assert "saving checkpoint to out\n" in ours and "mfu -100.00%" in ours and "mfu 0." in ours


def test_a_difference_between_the_runs_is_reported(data: Path, tmp_path: Path, launch) -> None:
    """The comparison can fail: it names the tensors and groups that differ if the programs get different options."""
    legacy, ours = (
        Side.in_new_folder(script, tmp_path / script.stem, data, launch) for script in (REFERENCE, ROOT / "train.py")
    )
    ours_run = ours.run
    ours.run = lambda arguments, processes=1: ours_run([*arguments, "--beta2=0.9501"], processes)
    lines = compare(legacy, ours, flags(TINY), ITERS, resume=False, processes=1)

    assert any("model.transformer" in line for line in lines)
    assert any("optimizer groups" in line for line in lines)


def test_a_missing_or_additional_checkpoint_is_reported(data: Path, tmp_path: Path, launch) -> None:
    """train.py must save one more checkpoint at the end; here the reference, which does not, stands in for it."""
    legacy, ours = (Side.in_new_folder(REFERENCE, tmp_path / name, data, launch) for name in ("legacy", "ours"))

    assert compare(legacy, ours, flags(TINY), ITERS, resume=False, processes=1) == [
        "checkpoints at [3, 6, 9, 10] != [3, 6, 9]"
    ]
    assert differences(legacy, ours) == []
    shutil.copy(ours.folder / "kept" / "9.pt", ours.folder / "kept" / "10.pt")
    assert differences(legacy, ours, final=10) == []
    shutil.copy(ours.folder / "kept" / "9.pt", ours.folder / "kept" / "11.pt")
    assert differences(legacy, ours, final=10) == ["checkpoints at [3, 6, 9, 10] != [3, 6, 9, 10, 11]"]


def test_a_ckpt_pt_newer_than_the_references_is_reported(data: Path, tmp_path: Path, launch) -> None:
    """train.py saves a newer checkpoint at the end, which must not become ckpt.pt."""
    legacy, ours = (
        Side.in_new_folder(script, tmp_path / script.stem, data, launch) for script in (REFERENCE, ROOT / "train.py")
    )
    assert compare(legacy, ours, flags(TINY), ITERS, resume=False, processes=1) == []

    shutil.copy(ours.folder / "kept" / "10.pt", ours.folder / "out" / "ckpt.pt")

    lines = differences(legacy, ours, final=10)
    assert "out/ckpt.pt: iter_num" in lines and all(line.startswith("out/ckpt.pt: ") for line in lines)


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (torch.tensor([1.0, float("nan")]), torch.tensor([1.0, float("nan")]), True),
        (torch.tensor(0.0), torch.tensor(-0.0), False),
        (torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float64), False),
        (torch.tensor([1.0]), torch.tensor([1.0 + 2**-23]), False),
    ],
)
def test_bits_are_compared_not_values(left: torch.Tensor, right: torch.Tensor, same: bool) -> None:
    assert same_bits(left, right) is same


def without_times(text: str) -> str:
    return re.sub(r"mfu 0\.\d\d%", "mfu 0.", re.sub(r"time [\d.]+ms", "time", text))
