"""Bad input, end to end: one clear message, exit status 2, and the files of an earlier run unchanged."""

import contextlib
import functools
import json
import math
import os
import pickle
import re
import shutil
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
from core.runtime import Ranks
from tests.summary_lines import without_summary
from tools.run_hash import run_hash

ROOT = Path(__file__).parents[1]
RESUME = ["--init_from=resume"]
Prepare = Callable[[], None]


class Hostile:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("pwned",)


def unchanged() -> None:
    """Change nothing."""


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


def wide() -> bytes:
    return (np.arange(2000, dtype=np.int64) % 17).tobytes()


def meta(content: dict[str, Any]) -> Prepare:
    return data("meta.pkl", pickle.dumps(content))


def remove_train_bin() -> None:
    Path("data/tiny/prepare.py").touch()
    Path("data/tiny/train.bin").unlink()


def make_a_file() -> None:
    Path("taken").touch()


def only_ckpt_pt(damage: Prepare) -> Prepare:
    """Remove everything but ckpt.pt from the run folder, as in a nanoGPT run, and damage ckpt.pt."""

    def prepare() -> None:
        for path in Path("out").iterdir():
            if path.name != "ckpt.pt":
                path.unlink()
        damage()

    return prepare


def all_checkpoints(damage: Callable[[Path], None]) -> Prepare:
    """Damage all checkpoints, and ckpt.pt."""
    return lambda: [damage(path) for path in sorted(Path("out").glob("*.pt"))] and None


def edited(edit: Callable[[dict[str, Any]], Any], name: str = "ckpt.pt") -> Prepare:
    """Edit an existing checkpoint in place."""

    def change() -> None:
        content = torch.load(f"out/{name}", weights_only=True)
        edit(content)
        torch.save(content, f"out/{name}")

    return change


def truncated(size: int, name: str = "ckpt.pt") -> Prepare:
    return lambda: os.truncate(f"out/{name}", size)


def flipped(name: str) -> Prepare:
    """Change one bit in the middle of a file."""

    def flip() -> None:
        content = bytearray(Path("out", name).read_bytes())
        content[len(content) // 2] ^= 1
        Path("out", name).write_bytes(content)

    return flip


def removed(*names: str) -> Prepare:
    return lambda: [Path("out", name).unlink() for name in names] and None


def symlinked(name: str) -> Prepare:
    """Replace a file with a symbolic link to it."""

    def link() -> None:
        Path("out", name).rename("elsewhere")
        Path("out", name).symlink_to(Path("elsewhere").resolve())

    return link


def replaced(name: str, content: bytes) -> Prepare:
    """Replace a file by a new one, as the rename of a temporary file does; other hard links keep their content."""

    def rename() -> None:
        Path("out", name).unlink()
        Path("out", name).write_bytes(content)

    return rename


def manifest(number: int, **changes: Any) -> Prepare:
    def change() -> None:
        path = Path(f"out/ckpt-00000{number}.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def swapped(end: str) -> Prepare:
    """Exchange the two checkpoints, or their manifests."""

    def swap() -> None:
        Path(f"out/ckpt-000001.{end}").rename("out/x")
        Path(f"out/ckpt-000002.{end}").rename(f"out/ckpt-000001.{end}")
        Path("out/x").rename(f"out/ckpt-000002.{end}")

    return swap


def smaller_vocabulary(checkpoint: dict[str, Any]) -> None:
    checkpoint["model_args"]["vocab_size"] = 11
    for name in ("transformer.wte.weight", "lm_head.weight"):
        checkpoint["model"][name] = checkpoint["model"][name][:11].clone()


def hostile_checkpoint() -> None:
    torch.save({"model": {}, "model_args": Hostile()}, "out/ckpt.pt")


def hostile_pickle() -> None:
    Path("out/ckpt.pt").write_bytes(pickle.dumps({"model": Hostile()}, protocol=2))


def not_a_checkpoint() -> None:
    torch.save([1], "out/ckpt.pt")


NONE: list[str] = []
CONFIG: dict[str, tuple[Prepare, list[str], str]] = {
    # the command line
    "unknown key": (unchanged, ["--learing_rate=1"], r"option 'learing_rate', did you mean 'learning_rate'"),
    "no value": (unchanged, ["--max_iters"], r"--max_iters: wanted --key=value"),
    "no dashes": (unchanged, ["max_iters=3"], r"max_iters=3.*did you mean --max_iters=3"),
    "wrong type": (unchanged, ["--max_iters=many"], r"max_iters: got 'many', wanted number >= 0"),
    "out of bounds": (unchanged, ["--dropout=1.5"], r"dropout: got '1\.5', wanted float >= 0 and < 1"),
    "training type": (unchanged, ["--training_type=nlp"], r"training_type: got 'nlp', wanted 'language_model'"),
    "attention type": (
        unchanged,
        ["--attention_type=left"],
        r"got 'left', wanted 'auto' or 'causal' or 'bidirectional'",
    ),
    "attention": (unchanged, ["--attention=fast"], r"got 'fast', wanted 'sdpa' or 'manual' or 'flash'"),
    "dtype": (unchanged, ["--dtype=float8"], r"dtype: got 'float8', wanted 'float32' or 'bfloat16' or"),
    "backend": (unchanged, ["--backend=tcp"], r"backend: got 'tcp', wanted 'nccl' or 'gloo'"),
    "device": (unchanged, ["--device=tpu"], r"device='tpu' is not known: wanted cuda"),
    "device number": (unchanged, ["--device=cuda:99"], r"cuda:99: there are \d+ CUDA devices"),
    "n_head": (unchanged, ["--n_head=3"], r"n_embd=32 must be divisible by n_head=3: change"),
    "init_from": (unchanged, ["--init_from=gpt5"], r"init_from='gpt5' is not known: wanted scratch, resume, gpt2,"),
    "out_dir": (make_a_file, ["--out_dir=taken"], r"out_dir='taken' cannot be written to: .*; choose another"),
    "out_dir below": (
        make_a_file,
        ["--out_dir=taken/out"],
        r"out_dir='taken/out' cannot be written to: .*; choose another",
    ),
    # config files
    "missing file": (unchanged, ["none.py"], r"cannot read config file none\.py: No such file"),
    "typo in a file": (config("\nbatchsize = 3\n"), ["x.py"], r"x\.py:2: .*'batchsize', did you mean 'batch_size'"),
    "type in a file": (config("n_layer = 'two'\n"), ["x.py"], r"x\.py:1: n_layer: got 'two', wanted int >= 1"),
    "syntax error": (config("\nn_layer = (2\n"), ["x.py"], r"x\.py:2: .*: n_layer = \(2"),
    "file that raises": (config("\nmin_lr = math.log(0)\n"), ["x.py"], r"x\.py:2: min_lr = math\.log\(0\): ValueError"),
    "yaml key": (yaml("training:\n  batchsize: 3\n"), ["x.yaml"], r"x\.yaml: .*did you mean 'training\.batch_size'"),
    "yaml syntax": (yaml("a: [1\n"), ["x.yaml"], r"x\.yaml:\d+ is not valid YAML"),
    # errors that depend on the checkpoint
    "larger block_size": (unchanged, [*RESUME, "--block_size=32"], r"block_size=32\b.*\b16\b"),
}
DATA: dict[str, tuple[Prepare, list[str], str]] = {
    "data set": (unchanged, ["--dataset=tinny"], r"no data at data/tinny/train\.bin: set dataset to one of: tiny"),
    "not prepared": (remove_train_bin, NONE, r"no data at data/tiny/train\.bin: run `python data/tiny/prepare\.py`"),
    "empty": (data("train.bin", b""), NONE, r"train\.bin has 0 tokens, wanted more than block_size=16: use more"),
    "odd number of bytes": (data("val.bin", b"\0" * 101), NONE, r"val\.bin has 101 bytes, which is odd"),
    "too short": (data("val.bin", b"\0" * 32), NONE, r"val\.bin has 16 tokens, wanted more .*smaller block_size"),
    "token id": (data("train.bin", token(17)), NONE, r"train\.bin holds token id 17, .* ids below 17: .*tokenizer"),
    "web page": (data("train.bin", b"<!DOCTYPE html>\n"), NONE, r"train\.bin is a web page, wanted uint16 token ids: "),
    "wide integers": (
        data("val.bin", wide()),
        NONE,
        r"val\.bin looks like 8-byte integers .*: convert it with `python",
    ),
    "type of ids": (meta({"vocab_size": 17, "dtype": "int64"}), NONE, r"meta\.pkl: dtype is 'int64', wanted uint16"),
    "hostile meta": (
        meta({"vocab_size": Hostile()}),
        NONE,
        r"meta\.pkl is damaged or not plain data .*mkdir.*: save a dict of vocab_size",
    ),
    "broken meta": (data("meta.pkl", b"\x80\x04nonsense"), NONE, r"meta\.pkl is damaged .*: make it again"),
    "vocabulary of a checkpoint": (
        only_ckpt_pt(edited(smaller_vocabulary)),
        RESUME,
        r"holds token id 1\d, .*ids below 11",
    ),
    "meta without size": (meta({}), NONE, r"meta\.pkl: no vocab_size, wanted a whole number .*: make it again"),
}
CHECKPOINT: dict[str, tuple[Prepare, list[str], str]] = {
    "no checkpoint": (unchanged, [*RESUME, "--out_dir=none"], r"no checkpoint at none/ckpt\.pt: set out_dir"),
    "empty checkpoint": (only_ckpt_pt(truncated(0)), RESUME, r"cannot read out/ckpt\.pt: it is truncated"),
    "truncated": (only_ckpt_pt(truncated(100_000)), RESUME, r"cannot read out/ckpt\.pt: it is truncated, damaged"),
    "flipped bit": (only_ckpt_pt(flipped("ckpt.pt")), RESUME, r"cannot read out/ckpt\.pt: it is truncated, damaged"),
    "text file": (
        only_ckpt_pt(writing("out/ckpt.pt", b"nonsense")),
        RESUME,
        r"cannot read out/ckpt\.pt: it is truncated, damaged",
    ),
    "hostile checkpoint": (only_ckpt_pt(hostile_checkpoint), RESUME, r"cannot read out/ckpt\.pt: .*more than tensors"),
    "hostile pickle": (only_ckpt_pt(hostile_pickle), RESUME, r"cannot read out/ckpt\.pt: .*more than tensors"),
    "another file": (
        only_ckpt_pt(not_a_checkpoint),
        RESUME,
        r"out/ckpt\.pt is not a checkpoint .* lacks model, model_args",
    ),
    "another width": (
        only_ckpt_pt(edited(lambda c: c["model_args"].update(n_embd=64))),
        RESUME,
        r"model_args do not fit its weights: they say n_embd=64, the weights have 32$",
    ),
    "missing tensor": (
        only_ckpt_pt(edited(lambda c: c["model"].pop("transformer.ln_f.weight"))),
        RESUME,
        r"transformer\.ln_f\.weight is missing",
    ),
    "additional tensor": (
        only_ckpt_pt(edited(lambda c: c["model"].update(extra=torch.ones(1)))),
        RESUME,
        r"extra is not part of this",
    ),
    "unknown model argument": (
        only_ckpt_pt(edited(lambda c: c["model_args"].update(use_moe=True))),
        RESUME,
        r"use_moe",
    ),
    "wrong counter": (only_ckpt_pt(edited(lambda c: c.update(iter_num=-1))), RESUME, r"lacks .*iter_num"),
    "n_head of a checkpoint": (only_ckpt_pt(edited(lambda c: c["model_args"].update(n_head=3))), RESUME, r"n_head=3"),
    "no heads": (only_ckpt_pt(edited(lambda c: c["model_args"].pop("n_head"))), RESUME, r"model_args lack n_head"),
    "untied head": (
        only_ckpt_pt(edited(lambda c: c["model"].update({"lm_head.weight": torch.ones(17, 32)}))),
        RESUME,
        r"transformer\.wte\.weight and lm_head\.weight differ in the checkpoint, and this model ties them",
    ),
    "weights not finite": (
        only_ckpt_pt(edited(lambda c: c["model"]["transformer.h.1.mlp.c_fc.weight"].fill_(math.nan))),
        [*RESUME, "--eval_only=True"],
        r"out/ckpt\.pt holds weights that are NaN or infinite: transformer\.h\.1\.mlp\.c_fc\.weight; .* use an earlier",
    ),
    "moments not finite": (
        only_ckpt_pt(edited(lambda c: c["optimizer"]["state"][3]["exp_avg"].fill_(math.inf))),
        RESUME,
        r"optimizer state is not finite \(exp_avg of tensor 3\): use an earlier .* --init_from_checkpoint",
    ),
    "LFS pointer": (
        only_ckpt_pt(writing("out/ckpt.pt", b"version https://git-lfs.github.com/spec/v1\n")),
        RESUME,
        r"out/ckpt\.pt is a Git LFS pointer, .*: fetch that with `git lfs pull`",
    ),
    "bare weights": (
        only_ckpt_pt(edited(lambda c: (weights := c["model"], c.clear(), c.update(weights)))),
        RESUME,
        r"out/ckpt\.pt is bare weights, without model_args: make a checkpoint of it with",
    ),
    "no weights": (only_ckpt_pt(edited(lambda c: c.update(model=5))), RESUME, r"out/ckpt\.pt is .* lacks model\b"),
    "other optimizer": (
        only_ckpt_pt(edited(lambda c: c["optimizer"]["param_groups"][1]["params"].pop())),
        RESUME,
        r"optimizer has groups of \[10, 4\] tensors, this model's has \[10, 5\].*: .* fresh moments, begin a new run",
    ),
    # run folders of coreGPT without a good checkpoint
    "all damaged": (
        all_checkpoints(lambda path: os.truncate(path, 1000)),
        RESUME,
        r"no good checkpoint in out: ckpt-000002\.pt has 1000 bytes, its manifest says \d+; ckpt-000001\.pt has 1000 "
        r"bytes, .*\. Put a good copy in .* start afresh with --init_from=scratch",
    ),
    "all missing": (
        all_checkpoints(Path.unlink),
        RESUME,
        r"no good checkpoint in out: ckpt-000002\.pt is missing; ckpt-000001",
    ),
    "newer format": (
        manifest(2, format=2),
        RESUME,
        r"ckpt-000002\.json is of format 2, this program knows 1: a newer",
    ),
    "newer format, auto": (
        manifest(2, format=2),
        ["--init_from=auto"],
        r"a newer version .* choose another out_dir",
    ),
}
CASES = {
    name: (prepare, flags, error, message)
    for error, cases in ((ConfigError, CONFIG), (DataError, DATA), (CheckpointError, CHECKPOINT))
    for name, (prepare, flags, message) in cases.items()
}


# damage to a run folder with two checkpoints: of iteration 3, which is also ckpt.pt, and of iteration 4;
# the iteration at which a resume continues, and the pattern of its messages
FALL_BACK: dict[str, tuple[Prepare, int, str]] = {
    # damage to ckpt.pt; the newest numbered checkpoint is used
    "ckpt.pt removed": (removed("ckpt.pt"), 4, ""),
    "ckpt.pt emptied": (
        truncated(0),
        4,
        r"cannot read out/ckpt\.pt: it is truncated.*; ckpt-000002\.pt is used instead",
    ),
    "ckpt.pt truncated": (
        truncated(100_000),
        4,
        r"cannot read out/ckpt\.pt: it is truncated.*; ckpt-000002\.pt is used instead",
    ),
    "ckpt.pt flipped": (
        flipped("ckpt.pt"),
        4,
        r"cannot read out/ckpt\.pt: .*checksum.*; ckpt-000002\.pt is used instead",
    ),
    "ckpt.pt edited": (
        edited(lambda c: c["model_args"].update(n_embd=64)),
        4,
        r"ckpt\.pt is ckpt-000001\.pt, damaged or changed",
    ),
    "ckpt.pt hostile": (
        hostile_checkpoint,
        4,
        r"cannot read out/ckpt\.pt: .*more than tensors.*; ckpt-000002\.pt is used instead",
    ),
    "ckpt.pt a hostile pickle": (
        hostile_pickle,
        4,
        r"cannot read out/ckpt\.pt: .*more than tensors.*; ckpt-000002\.pt is used instead",
    ),
    "ckpt.pt another file": (
        not_a_checkpoint,
        4,
        r"out/ckpt\.pt is not a checkpoint .*; ckpt-000002\.pt is used instead",
    ),
    "ckpt.pt replaced": (
        replaced("ckpt.pt", b"text"),
        4,
        r"cannot read out/ckpt\.pt: .*; ckpt-000002\.pt is used instead",
    ),
    "ckpt.pt a symbolic link": (symlinked("ckpt.pt"), 4, ""),
    # damage to all numbered checkpoints; ckpt.pt matches one of the manifests and is used
    "numbered removed": (
        removed("ckpt-000001.pt", "ckpt-000002.pt"),
        3,
        r"ckpt-000002\.pt is missing; ckpt\.pt is used instead" "\n" r".*ckpt-000001\.pt is missing; ckpt\.pt is used",
    ),
    "swapped": (
        swapped("pt"),
        3,
        r"ckpt-000002\.pt .* manifest.*; ckpt\.pt is used instead"
        "\n"
        r".*ckpt-000001\.pt .*; ckpt\.pt is used instead",
    ),
    # damage to the newest checkpoint
    "truncated": (
        truncated(100_000, "ckpt-000002.pt"),
        3,
        r"ckpt-000002\.pt has 100000 bytes, its manifest says \d+; ",
    ),
    "flipped": (flipped("ckpt-000002.pt"), 3, r"ckpt-000002\.pt is damaged: its checksum is not its manifest's; "),
    "removed": (removed("ckpt-000002.pt"), 3, r"ckpt-000002\.pt is missing; ckpt-000001\.pt is used instead"),
    "hostile": (
        replaced("ckpt-000002.pt", pickle.dumps({"model": Hostile()}, protocol=2)),
        3,
        r"ckpt-000002\.pt has \d+ bytes, its manifest says",
    ),
    "symbolic link": (symlinked("ckpt-000002.pt"), 3, r"ckpt-000002\.pt is a symbolic link; ckpt-000001\.pt is used"),
    "content of an older checkpoint": (
        lambda: shutil.copy("out/ckpt-000001.pt", "out/ckpt-000002.pt") and None,
        3,
        r"ckpt-000002\.pt (is damaged: its checksum|has \d+ bytes, its manifest says) .*; ckpt-000001\.pt is used",
    ),
    "manifest removed": (
        removed("ckpt-000002.json"),
        3,
        r"ckpt-000002\.pt has no manifest: its save was cut short, or",
    ),
    "manifest truncated": (
        truncated(20, "ckpt-000002.json"),
        3,
        r"ckpt-000002\.json is damaged: it is not JSON; ckpt-000001",
    ),
    "manifest that is a list": (writing("out/ckpt-000002.json", b"[]"), 3, r"ckpt-000002\.json is no manifest"),
    "manifest incomplete": (
        writing("out/ckpt-000002.json", b"{}"),
        3,
        r"ckpt-000002\.json is damaged: its 'format' is",
    ),
    "manifest of a file outside the folder": (
        manifest(2, file="../data/tiny/train.bin"),
        3,
        r"ckpt-000002\.json is the manifest of another checkpoint \('\.\./data",
    ),
    "manifest of another checkpoint": (manifest(2, file="ckpt-000001.pt"), 3, r"the manifest of another checkpoint"),
}


def files(folder: Path) -> dict[str, bytes]:
    """Return the content of all files except the lock file, which contains the process id of the run."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path): path.read_bytes() for path in paths}


@pytest.fixture
def earlier_run(run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Train a run in out/ and return its command line."""
    train.main([*tiny_argv, "--max_iters=3"])
    capsys.readouterr()
    return tiny_argv


@pytest.mark.parametrize("name", CASES)
def test_bad_input_gives_one_clear_message_and_changes_no_file(name: str, earlier_run: list[str]) -> None:
    prepare, flags, error, message = CASES[name]
    prepare()
    before = files(Path("out"))

    with pytest.raises(CoreGPTError) as caught:
        train.main([*earlier_run, *flags])

    assert isinstance(caught.value, error) and caught.value.exit_status == 2
    assert re.search(message, str(caught.value)), str(caught.value)
    assert len(str(caught.value)) < 1000
    assert files(Path("out")) == before and before
    assert not Path("pwned").exists()


@functools.cache
def undisturbed(*argv: str) -> str:
    """Return the hash of the undisturbed run, which is trained only once."""
    train.main([*argv, "--out_dir=undisturbed"])
    return run_hash("undisturbed")


@pytest.mark.parametrize("name", FALL_BACK)
def test_damage_is_reported_and_the_newest_good_checkpoint_is_used(
    name: str, earlier_run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    prepare, first, message = FALL_BACK[name]
    expected = undisturbed(*earlier_run)
    prepare()
    had_ckpt_pt = Path("out/ckpt.pt").exists()
    content = Path("out/ckpt.pt").read_bytes() if had_ckpt_pt else b""
    capsys.readouterr()

    train.main([*earlier_run, *RESUME])

    out, err = capsys.readouterr()
    assert re.findall(r"^iter (\d+):", out, re.MULTILINE) == [str(number) for number in range(first, 7)]
    lines = without_summary(err).splitlines()
    foreign_line = lines.pop() if lines[-1].endswith("it is now ckpt.pt.foreign") else None
    *messages, options, start = lines
    assert len(messages) == (1 + message.count("\n") if message else 0), err
    assert re.search(message, "\n".join(messages)) and all(line.startswith("out: ") for line in messages), err
    assert options.startswith("resume: the options differ")
    assert re.fullmatch(rf"resume: iteration {first} from ckpt-\S+, checksum and next batch verified", start)
    assert run_hash("out") == expected
    assert not Path("pwned").exists()
    if name == "ckpt.pt a symbolic link":  # to our own checkpoint
        assert (
            foreign_line is None and not Path("out/ckpt.pt").is_symlink() and Path("elsewhere").read_bytes() == content
        )
    elif name.startswith("ckpt.pt") and had_ckpt_pt:  # the file of another program is kept
        assert foreign_line and Path("out/ckpt.pt.foreign").read_bytes() == content
    else:
        assert foreign_line is None and not Path("out/ckpt.pt.foreign").exists()


@pytest.mark.parametrize("name", ["hostile checkpoint", "hostile pickle"])
def test_unsafe_loading_runs_the_code_of_hostile_checkpoints(name: str, earlier_run: list[str]) -> None:
    CASES[name][0]()

    with contextlib.suppress(RuntimeError):  # the file is not a complete checkpoint
        torch.load("out/ckpt.pt", weights_only=False)
    assert Path("pwned").exists()


@pytest.mark.parametrize(
    "name",
    [
        "truncated",
        "hostile checkpoint",
        "text file",
    ],
)
def test_an_unreadable_checkpoint_gives_safe_advice(name: str, earlier_run: list[str]) -> None:
    CASES[name][0]()

    with pytest.raises(CheckpointError) as caught:
        train.main([*earlier_run, *RESUME])

    assert "weights_only" not in str(caught.value)  # torch's own advice is unsafe
    assert "init_from=scratch" in str(caught.value)


def test_all_option_errors_are_in_one_message(earlier_run: list[str]) -> None:
    Path("x.py").write_text("batchsize = 3\nn_layer = 'two'\n")

    with pytest.raises(ConfigError) as caught:
        train.main([*earlier_run, "x.py", "--dtype=float8", "--lerning_rate=1", "--n_head=3"])

    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    for line, word in zip(lines, ["batchsize", "n_layer", "float8", "lerning_rate", "n_head=3"], strict=True):
        assert word in line


def test_option_errors_are_raised_before_any_file_is_written(
    run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError):
        train.main([*tiny_argv, "--batch_sise=3"])

    assert all(line.startswith("Overriding: ") for line in capsys.readouterr().out.splitlines())
    assert sorted(path.name for path in run_dir.iterdir()) == ["data"]


def test_accumulation_must_divide_evenly_among_processes(
    earlier_run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(Path("out"))
    monkeypatch.setattr(Ranks, "read", lambda environment: Ranks(world_size=3))  # without the group's other processes

    with pytest.raises(ConfigError, match=r"gradient_accumulation_steps=2 .* 3 processes: choose a multiple of 3"):
        train.main(earlier_run)
    assert files(Path("out")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser can write to read-only folders")
def test_a_read_only_out_dir_is_refused(earlier_run: list[str]) -> None:
    Path("out").chmod(0o500)
    try:
        with pytest.raises(ConfigError, match=r"out_dir='out' cannot be written to: Permission denied; choose another"):
            train.main(earlier_run)
    finally:
        Path("out").chmod(0o700)


def test_a_helper_variable_that_its_file_reads_is_no_error(earlier_run: list[str]) -> None:
    Path("x.py").write_text("max_iter = 2\nmax_iters = max_iter\n")

    train.main([*earlier_run, "x.py", "--out_dir=fine"])

    assert Path("fine/metrics.jsonl").read_text().count('"event": "step"') == 3


def test_a_prompt_with_unknown_characters_is_refused(earlier_run: list[str]) -> None:
    before = files(Path("out"))

    with pytest.raises(DataError, match=r"17 characters lack 'X', 'é': remove them from the text, or prepare"):
        sample.main(["--device=cpu", "--start=abXé"])
    assert files(Path("out")) == before


def test_the_program_ends_with_status_2_and_no_traceback(earlier_run: list[str]) -> None:
    prepare, flags, _, message = CASES["token id"]
    prepare()
    before = files(Path("out"))

    done = subprocess.run([sys.executable, ROOT / "train.py", *earlier_run, *flags], capture_output=True, text=True)

    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and re.search(message, done.stderr)
    assert len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stdout
    assert files(Path("out")) == before
