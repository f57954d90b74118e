"""Bad input, end to end: one clear message, exit status 2, and nothing of an earlier run lost."""

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
Prepare = Callable[[], None]


class Hostile:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("pwned",)


def nothing() -> None:
    """Leave the folder as it is."""


def config(text: str) -> Prepare:
    return lambda: Path("x.py").write_text(text) and None


def yaml(text: str) -> Prepare:
    return lambda: Path("x.yaml").write_text(text) and None


def data(name: str, content: bytes) -> Prepare:
    return lambda: Path("data/tiny", name).write_bytes(content) and None


def token(value: int) -> bytes:
    tokens = np.zeros(2000, dtype=np.uint16)
    tokens[1234] = value
    return tokens.tobytes()


def no_data() -> None:
    Path("data/tiny/train.bin").unlink()


def unprepared() -> None:
    Path("data/tiny/prepare.py").touch()
    no_data()


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


def missing_checkpoint() -> None:
    Path("out/ckpt.pt").unlink()


def read_only() -> None:
    Path("locked").write_text("a file where a folder is wanted")


RESUME = ["--init_from=resume"]
CASES: dict[str, tuple[Prepare, list[str], type[CoreGPTError], str]] = {
    # the command line
    "unknown key": (nothing, ["--learing_rate=1"], ConfigError, r"unknown option 'learing_rate', did you mean 'learning_rate'"),
    "no value": (nothing, ["--max_iters"], ConfigError, r"--max_iters: wanted --key=value"),
    "no dashes": (nothing, ["max_iters=3"], ConfigError, r"max_iters=3.*did you mean --max_iters=3"),
    "wrong type": (nothing, ["--max_iters=many"], ConfigError, r"max_iters: got 'many', wanted int >= 0"),
    "out of bounds": (nothing, ["--dropout=1.5"], ConfigError, r"dropout: got '1\.5', wanted float >= 0 and < 1"),
    "not finite": (nothing, ["--learning_rate=1e999"], ConfigError, r"learning_rate: got '1e999'"),
    "training type": (nothing, ["--training_type=nlp"], ConfigError, r"training_type: got 'nlp', wanted 'language_model'"),
    "attention type": (nothing, ["--attention_type=left"], ConfigError, r"got 'left', wanted 'causal' or 'bidirectional'"),
    "attention": (nothing, ["--attention=fast"], ConfigError, r"got 'fast', wanted 'sdpa' or 'manual' or 'flash'"),
    "dtype": (nothing, ["--dtype=float8"], ConfigError, r"dtype: got 'float8', wanted 'float32' or 'bfloat16' or"),
    "backend": (nothing, ["--backend=tcp"], ConfigError, r"backend: got 'tcp', wanted 'nccl' or 'gloo'"),
    "device": (nothing, ["--device=tpu"], ConfigError, r"device='tpu' is not known: wanted cuda"),
    "device number": (nothing, ["--device=cuda:99"], ConfigError, r"cuda:99: there are \d+ CUDA devices"),
    "heads": (nothing, ["--n_head=3"], ConfigError, r"n_embd=32 must be divisible by n_head=3: change"),
    "init_from": (nothing, ["--init_from=gpt5"], ConfigError, r"init_from='gpt5' is not known: wanted scratch, resume, gpt2,"),
    # config files
    "file missing": (nothing, ["none.py"], ConfigError, r"cannot read config file none\.py: No such file"),
    "typo in a file": (config("a = 1\nbatchsize = 3\n"), ["x.py"], ConfigError, r"x\.py:2: .*'batchsize', did you mean 'batch_size'"),
    "wrong type in a file": (config("n_layer = 'two'\n"), ["x.py"], ConfigError, r"x\.py:1: n_layer: got 'two', wanted int >= 1"),
    "syntax error": (config("a = 1\nn_layer = (2\n"), ["x.py"], ConfigError, r"x\.py:2: .*: n_layer = \(2"),
    "raising": (config("import math\nmin_lr = math.log(0)\n"), ["x.py"], ConfigError, r"x\.py:2: min_lr = math\.log\(0\): ValueError"),
    "yaml key": (yaml("training:\n  batchsize: 3\n"), ["x.yaml"], ConfigError, r"x\.yaml: .*did you mean 'training\.batch_size'"),
    "yaml syntax": (yaml("a: [1\n"), ["x.yaml"], ConfigError, r"x\.yaml is not valid YAML"),
    # folders
    "out_dir": (read_only, ["--out_dir=locked"], ConfigError, r"out_dir='locked' cannot be written to: .*; choose another"),
    "out_dir below": (read_only, ["--out_dir=locked/out"], ConfigError, r"out_dir='locked/out' cannot be written to"),
    "data set": (nothing, ["--dataset=tinny"], DataError, r"no data at data/tinny/train\.bin: set dataset to one of: tiny"),
    "not prepared": (unprepared, [], DataError, r"no data at data/tiny/train\.bin: run `python data/tiny/prepare\.py`"),
    # data
    "empty": (data("train.bin", b""), [], DataError, r"train\.bin has 0 tokens, wanted more than block_size=16: use more text"),
    "odd": (data("val.bin", b"\0" * 101), [], DataError, r"val\.bin has 101 bytes, which is odd"),
    "short": (data("val.bin", b"\0" * 32), [], DataError, r"val\.bin has 16 tokens, wanted more than block_size=16.*smaller block_size"),
    "token id": (data("train.bin", token(17)), [], DataError, r"train\.bin holds token id 17, .* ids below 17: .*tokenizer"),
    "hostile meta": (data("meta.pkl", pickle.dumps({"vocab_size": Hostile()})), [], DataError, r"meta\.pkl is damaged or not plain"),
    "broken meta": (data("meta.pkl", b"\x80\x04nonsense"), [], DataError, r"meta\.pkl is damaged .*: make it again"),
    "meta without size": (data("meta.pkl", pickle.dumps({})), [], DataError, r"meta\.pkl: no vocab_size, wanted a whole number"),
    # checkpoints
    "no checkpoint": (nothing, [*RESUME, "--out_dir=none"], CheckpointError, r"no checkpoint at none/ckpt\.pt: set out_dir"),
    "empty checkpoint": (truncated(0), RESUME, CheckpointError, r"cannot read out/ckpt\.pt: it is truncated"),
    "truncated": (truncated(100_000), RESUME, CheckpointError, r"cannot read out/ckpt\.pt: it is truncated, damaged"),
    "hostile checkpoint": (hostile_checkpoint, RESUME, CheckpointError, r"cannot read out/ckpt\.pt: .*more than tensors"),
    "hostile pickle": (hostile_pickle, RESUME, CheckpointError, r"cannot read out/ckpt\.pt: .*more than tensors"),
    "another file": (lambda: torch.save([1], "out/ckpt.pt"), RESUME, CheckpointError, r"not a checkpoint .* lacks model, model_args"),
    "another width": (edited(lambda c: c["model_args"].update(n_embd=64)), RESUME, CheckpointError,
                      r"does not fit the model: transformer\.wte\.weight has shape \(17, 32\), wanted \(17, 64\); .* and 11 more"),
    "a tensor less": (edited(lambda c: c["model"].pop("transformer.ln_f.weight")), RESUME, CheckpointError,
                      r"transformer\.ln_f\.weight is missing"),
    "a tensor more": (edited(lambda c: c["model"].update(extra=torch.ones(1))), RESUME, CheckpointError,
                      r"extra is not part of this model"),
    "heads of a checkpoint": (edited(lambda c: c["model_args"].update(n_head=3)), RESUME, ConfigError, r"n_head=3"),
    "foreign argument": (edited(lambda c: c["model_args"].update(use_moe=True)), RESUME, CheckpointError, r"use_moe"),
    "no optimizer": (edited(lambda c: c.pop("optimizer")), RESUME, CheckpointError, r"lacks .*optimizer"),
    "no counter": (edited(lambda c: c.pop("iter_num")), RESUME, CheckpointError, r"lacks .*iter_num"),
    "no weights": (edited(lambda c: c.update(model=5)), RESUME, CheckpointError, r"out/ckpt\.pt"),
    "other optimizer": (edited(lambda c: c["optimizer"]["param_groups"][1]["params"].pop()), RESUME, CheckpointError,
                        r"optimizer has groups of \[10, 4\] tensors, this model's has \[10, 5\]"),
    "longer block": (nothing, [*RESUME, "--block_size=32"], ConfigError, r"block_size=32\b.*\b16\b"),
}  # fmt: skip


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


def test_a_mistyped_out_dir_leaves_no_folder(run_dir: Path, tiny_argv: list[str]) -> None:
    with pytest.raises(CheckpointError):
        train.main([*tiny_argv, *RESUME, "--out_dir=mistyped"])

    assert not Path("mistyped").exists()


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
