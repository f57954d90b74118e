"""Bad input, end to end: one clear message, exit status 2, and nothing of an earlier run lost."""

import contextlib
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sample
import train
from core import CheckpointError, ConfigError, CoreGPTError, DataError

ROOT = Path(__file__).parents[1]
RESUME = ["--init_from=resume"]
Prepare = Callable[[], None]


class Hostile:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("pwned",)


def nothing() -> None:
    """Leave the folder as it is."""


def writing(path: str, content: bytes) -> Prepare:
    def write() -> None:
        Path(path).write_bytes(content)

    return write


def config(text: str) -> Prepare:
    return writing("x.py", text.encode())


def yaml(text: str) -> Prepare:
    return writing("x.yaml", text.encode())


def data(name: str, content: bytes) -> Prepare:
    return writing(f"data/tiny/{name}", content)


def token(value: int) -> bytes:
    tokens = np.zeros(2000, dtype=np.uint16)
    tokens[1234] = value
    return tokens.tobytes()


def meta(content: dict[str, Any]) -> Prepare:
    return data("meta.pkl", pickle.dumps(content))


def unprepared() -> None:
    Path("data/tiny/prepare.py").touch()
    Path("data/tiny/train.bin").unlink()


def a_file() -> None:
    Path("taken").touch()


def edited(edit: Callable[[dict[str, Any]], Any]) -> Prepare:
    """Change the checkpoint that is there."""

    def change() -> None:
        content = torch.load("out/ckpt.pt", weights_only=True)
        edit(content)
        torch.save(content, "out/ckpt.pt")

    return change


def truncated(size: int) -> Prepare:
    return lambda: os.truncate("out/ckpt.pt", size)


def hostile_checkpoint() -> None:
    torch.save({"model": {}, "model_args": Hostile()}, "out/ckpt.pt")


def hostile_pickle() -> None:
    Path("out/ckpt.pt").write_bytes(pickle.dumps({"model": Hostile()}, protocol=2))


def another_file() -> None:
    torch.save([1], "out/ckpt.pt")


NONE: list[str] = []
CONFIG: dict[str, tuple[Prepare, list[str], str]] = {
    # the command line
    "unknown key": (nothing, ["--learing_rate=1"], r"option 'learing_rate', did you mean 'learning_rate'"),
    "no value": (nothing, ["--max_iters"], r"--max_iters: wanted --key=value"),
    "no dashes": (nothing, ["max_iters=3"], r"max_iters=3.*did you mean --max_iters=3"),
    "wrong type": (nothing, ["--max_iters=many"], r"max_iters: got 'many', wanted number >= 0"),
    "out of bounds": (nothing, ["--dropout=1.5"], r"dropout: got '1\.5', wanted float >= 0 and < 1"),
    "training type": (nothing, ["--training_type=nlp"], r"training_type: got 'nlp', wanted 'language_model'"),
    "attention type": (nothing, ["--attention_type=left"], r"got 'left', wanted 'causal' or 'bidirectional'"),
    "attention": (nothing, ["--attention=fast"], r"got 'fast', wanted 'sdpa' or 'manual' or 'flash'"),
    "dtype": (nothing, ["--dtype=float8"], r"dtype: got 'float8', wanted 'float32' or 'bfloat16' or"),
    "backend": (nothing, ["--backend=tcp"], r"backend: got 'tcp', wanted 'nccl' or 'gloo'"),
    "device": (nothing, ["--device=tpu"], r"device='tpu' is not known: wanted cuda"),
    "device number": (nothing, ["--device=cuda:99"], r"cuda:99: there are \d+ CUDA devices"),
    "heads": (nothing, ["--n_head=3"], r"n_embd=32 must be divisible by n_head=3: change"),
    "init_from": (nothing, ["--init_from=gpt5"], r"init_from='gpt5' is not known: wanted scratch, resume, gpt2,"),
    "out_dir": (a_file, ["--out_dir=taken"], r"out_dir='taken' cannot be written to: .*; choose another"),
    "out_dir below": (a_file, ["--out_dir=taken/out"], r"out_dir='taken/out' cannot be written to: .*; choose another"),
    # config files
    "file missing": (nothing, ["none.py"], r"cannot read config file none\.py: No such file"),
    "typo in a file": (config("\nbatchsize = 3\n"), ["x.py"], r"x\.py:2: .*'batchsize', did you mean 'batch_size'"),
    "type in a file": (config("n_layer = 'two'\n"), ["x.py"], r"x\.py:1: n_layer: got 'two', wanted int >= 1"),
    "syntax error": (config("\nn_layer = (2\n"), ["x.py"], r"x\.py:2: .*: n_layer = \(2"),
    "raising": (config("\nmin_lr = math.log(0)\n"), ["x.py"], r"x\.py:2: min_lr = math\.log\(0\): ValueError"),
    "yaml key": (yaml("training:\n  batchsize: 3\n"), ["x.yaml"], r"x\.yaml: .*did you mean 'training\.batch_size'"),
    "yaml syntax": (yaml("a: [1\n"), ["x.yaml"], r"x\.yaml is not valid YAML"),
    # what shows in the checkpoint only
    "heads of a checkpoint": (edited(lambda c: c["model_args"].update(n_head=3)), RESUME, r"n_head=3"),
    "longer block": (nothing, [*RESUME, "--block_size=32"], r"block_size=32\b.*\b16\b"),
}
DATA: dict[str, tuple[Prepare, list[str], str]] = {
    "data set": (nothing, ["--dataset=tinny"], r"no data at data/tinny/train\.bin: set dataset to one of: tiny"),
    "not prepared": (unprepared, NONE, r"no data at data/tiny/train\.bin: run `python data/tiny/prepare\.py`"),
    "empty": (data("train.bin", b""), NONE, r"train\.bin has 0 tokens, wanted more than block_size=16: use more"),
    "odd": (data("val.bin", b"\0" * 101), NONE, r"val\.bin has 101 bytes, which is odd"),
    "short": (data("val.bin", b"\0" * 32), NONE, r"val\.bin has 16 tokens, wanted more .*smaller block_size"),
    "token id": (data("train.bin", token(17)), NONE, r"train\.bin holds token id 17, .* ids below 17: .*tokenizer"),
    "hostile meta": (
        meta({"vocab_size": Hostile()}),
        NONE,
        r"meta\.pkl is damaged or not plain data .*mkdir.*: make it",
    ),
    "broken meta": (data("meta.pkl", b"\x80\x04nonsense"), NONE, r"meta\.pkl is damaged .*: make it again"),
    "meta without size": (meta({}), NONE, r"meta\.pkl: no vocab_size, wanted a whole number .*: make it again"),
}
CHECKPOINT: dict[str, tuple[Prepare, list[str], str]] = {
    "no checkpoint": (nothing, [*RESUME, "--out_dir=none"], r"no checkpoint at none/ckpt\.pt: set out_dir"),
    "empty checkpoint": (truncated(0), RESUME, r"cannot read out/ckpt\.pt: it is truncated"),
    "truncated": (truncated(100_000), RESUME, r"cannot read out/ckpt\.pt: it is truncated, damaged"),
    "hostile checkpoint": (hostile_checkpoint, RESUME, r"cannot read out/ckpt\.pt: .*more than tensors"),
    "hostile pickle": (hostile_pickle, RESUME, r"cannot read out/ckpt\.pt: .*more than tensors"),
    "another file": (another_file, RESUME, r"out/ckpt\.pt is not a checkpoint .* lacks model, model_args"),
    "another width": (
        edited(lambda c: c["model_args"].update(n_embd=64)),
        RESUME,
        r"does not fit .*: transformer\.wte\.weight has shape \(17, 32\), wanted \(17, 64\); .* and 11 more",
    ),
    "a tensor less": (edited(lambda c: c["model"].pop("lm_head.weight")), RESUME, r"lm_head\.weight is missing"),
    "a tensor more": (edited(lambda c: c["model"].update(extra=torch.ones(1))), RESUME, r"extra is not part of this"),
    "foreign argument": (edited(lambda c: c["model_args"].update(use_moe=True)), RESUME, r"use_moe"),
    "no optimizer": (edited(lambda c: c.pop("optimizer")), RESUME, r"lacks .*optimizer"),
    "no counter": (edited(lambda c: c.pop("iter_num")), RESUME, r"lacks .*iter_num"),
    "no weights": (edited(lambda c: c.update(model=5)), RESUME, r"out/ckpt\.pt"),
    "other optimizer": (
        edited(lambda c: c["optimizer"]["param_groups"][1]["params"].pop()),
        RESUME,
        r"optimizer has groups of \[10, 4\] tensors, this model's has \[10, 5\]",
    ),
}
CASES = {
    name: (prepare, flags, error, message)
    for error, cases in ((ConfigError, CONFIG), (DataError, DATA), (CheckpointError, CHECKPOINT))
    for name, (prepare, flags, message) in cases.items()
}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def earlier_run(run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Leave a run in out/; return the command line that made it."""
    train.main([*tiny_argv, "--max_iters=3"])
    capsys.readouterr()
    return tiny_argv


@pytest.mark.parametrize("name", CASES)
def test_one_clear_message_and_nothing_lost(name: str, earlier_run: list[str]) -> None:
    prepare, flags, error, message = CASES[name]
    prepare()
    before = files(Path("out"))

    with pytest.raises(CoreGPTError) as caught:
        train.main([*earlier_run, *flags])

    assert type(caught.value) is error and caught.value.exit_status == 2
    assert re.search(message, str(caught.value)), str(caught.value)
    assert len(str(caught.value)) < 1000
    assert files(Path("out")) == before and before
    assert not Path("pwned").exists()


@pytest.mark.parametrize("name", ["hostile checkpoint", "hostile pickle"])
def test_the_hostile_checkpoints_are_hostile(name: str, earlier_run: list[str]) -> None:
    CASES[name][0]()

    with contextlib.suppress(RuntimeError):  # what else is in the file is no checkpoint
        torch.load("out/ckpt.pt", weights_only=False)
    assert Path("pwned").exists()


@pytest.mark.parametrize("name", ["truncated", "hostile checkpoint"])
def test_an_unreadable_checkpoint_comes_with_advice_that_is_safe(name: str, earlier_run: list[str]) -> None:
    CASES[name][0]()

    with pytest.raises(CheckpointError) as caught:
        train.main([*earlier_run, *RESUME])

    assert "weights_only" not in str(caught.value)  # torch's own advice is to switch the safety off
    assert "init_from=scratch" in str(caught.value)


def test_all_mistakes_of_the_options_come_in_one_message(earlier_run: list[str]) -> None:
    Path("x.py").write_text("batchsize = 3\nn_layer = 'two'\n")

    with pytest.raises(ConfigError) as caught:
        train.main([*earlier_run, "x.py", "--dtype=float8", "--lerning_rate=1", "--n_head=3"])

    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    for line, word in zip(lines, ["batchsize", "n_layer", "float8", "lerning_rate", "n_head=3"], strict=True):
        assert word in line


def test_mistakes_of_the_options_come_before_any_work(
    run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError):
        train.main([*tiny_argv, "--batch_sise=3"])

    assert all(line.startswith("Overriding: ") for line in capsys.readouterr().out.splitlines())
    assert sorted(path.name for path in run_dir.iterdir()) == ["data"]


def test_accumulation_must_be_shared_evenly(earlier_run: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(Path("out"))
    monkeypatch.setenv("WORLD_SIZE", "3")

    with pytest.raises(ConfigError, match=r"gradient_accumulation_steps=2 .* 3 processes: choose a multiple of 3"):
        train.main(earlier_run)
    assert files(Path("out")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to the superuser")
def test_a_read_only_out_dir(earlier_run: list[str]) -> None:
    Path("out").chmod(0o500)
    try:
        with pytest.raises(ConfigError, match=r"out_dir='out' cannot be written to: Permission denied; choose another"):
            train.main(earlier_run)
    finally:
        Path("out").chmod(0o700)


def test_a_helper_that_its_file_reads_is_no_mistake(earlier_run: list[str]) -> None:
    Path("x.py").write_text("max_iter = 2\nmax_iters = max_iter\n")

    train.main([*earlier_run, "x.py", "--out_dir=fine"])

    assert Path("fine/metrics.jsonl").read_text().count('"event": "step"') == 3


def test_a_prompt_with_unknown_characters(earlier_run: list[str]) -> None:
    before = files(Path("out"))

    with pytest.raises(DataError, match=r"17 characters lack 'X', 'é': leave them out of the text, or prepare"):
        sample.main(["--device=cpu", "--start=abXé"])
    assert files(Path("out")) == before


@pytest.mark.parametrize("name", ["typo in a file", "token id", "truncated"])
def test_the_program_ends_with_status_2_and_no_traceback(name: str, earlier_run: list[str]) -> None:
    prepare, flags, _, message = CASES[name]
    prepare()
    before = files(Path("out"))

    done = subprocess.run([sys.executable, ROOT / "train.py", *earlier_run, *flags], capture_output=True, text=True)

    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and re.search(message, done.stderr)
    assert len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stdout
    assert files(Path("out")) == before
