"""Bad input, end to end: one clear message, exit status 2, and the files of an earlier run unchanged."""

import contextlib
import functools
import json
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
from tools.run_hash import run_hash

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


def alone(damage: Prepare) -> Prepare:
    """Remove everything but ckpt.pt from the run folder, as in a nanoGPT run, and damage ckpt.pt."""

    def prepare() -> None:
        for path in Path("out").iterdir():
            if path.name != "ckpt.pt":
                path.unlink()
        damage()

    return prepare


def every(damage: Callable[[Path], None]) -> Prepare:
    """Damage all checkpoints and all their hard links."""
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


def linked_away(name: str) -> Prepare:
    """Replace a file with a symbolic link."""

    def link() -> None:
        Path("out", name).rename("elsewhere")
        Path("out", name).symlink_to(Path("elsewhere").resolve())

    return link


def renamed_in(name: str, content: bytes) -> Prepare:
    """Replace a file as a program does that writes a temporary file and renames it: hard links keep the content."""

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
    "attention type": (nothing, ["--attention_type=left"], r"got 'left', wanted 'auto' or 'causal' or 'bidirectional'"),
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
    # errors that only the checkpoint shows
    "heads of a checkpoint": (alone(edited(lambda c: c["model_args"].update(n_head=3))), RESUME, r"n_head=3"),
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
    "vocabulary of a checkpoint": (alone(edited(smaller_vocabulary)), RESUME, r"holds token id 1\d, .*ids below 11"),
    "meta without size": (meta({}), NONE, r"meta\.pkl: no vocab_size, wanted a whole number .*: make it again"),
}
CHECKPOINT: dict[str, tuple[Prepare, list[str], str]] = {
    "no checkpoint": (nothing, [*RESUME, "--out_dir=none"], r"no checkpoint at none/ckpt\.pt: set out_dir"),
    "empty checkpoint": (alone(truncated(0)), RESUME, r"cannot read out/ckpt\.pt: it is truncated"),
    "truncated": (alone(truncated(100_000)), RESUME, r"cannot read out/ckpt\.pt: it is truncated, damaged"),
    "flipped bit": (alone(flipped("ckpt.pt")), RESUME, r"cannot read out/ckpt\.pt: it is truncated, damaged"),
    "a text": (
        alone(writing("out/ckpt.pt", b"nonsense")),
        RESUME,
        r"cannot read out/ckpt\.pt: it is truncated, damaged",
    ),
    "hostile checkpoint": (alone(hostile_checkpoint), RESUME, r"cannot read out/ckpt\.pt: .*more than tensors"),
    "hostile pickle": (alone(hostile_pickle), RESUME, r"cannot read out/ckpt\.pt: .*more than tensors"),
    "another file": (alone(another_file), RESUME, r"out/ckpt\.pt is not a checkpoint .* lacks model, model_args"),
    "another width": (
        alone(edited(lambda c: c["model_args"].update(n_embd=64))),
        RESUME,
        r"does not fit .*: transformer\.wte\.weight has shape \(17, 32\), wanted \(17, 64\); .* and 11 more",
    ),
    "a tensor less": (alone(edited(lambda c: c["model"].pop("lm_head.weight"))), RESUME, r"lm_head\.weight is missing"),
    "a tensor more": (
        alone(edited(lambda c: c["model"].update(extra=torch.ones(1)))),
        RESUME,
        r"extra is not part of this",
    ),
    "foreign argument": (alone(edited(lambda c: c["model_args"].update(use_moe=True))), RESUME, r"use_moe"),
    "no optimizer": (alone(edited(lambda c: c.pop("optimizer"))), RESUME, r"lacks .*optimizer"),
    "no counter": (alone(edited(lambda c: c.pop("iter_num"))), RESUME, r"lacks .*iter_num"),
    "no weights": (alone(edited(lambda c: c.update(model=5))), RESUME, r"out/ckpt\.pt"),
    "other optimizer": (
        alone(edited(lambda c: c["optimizer"]["param_groups"][1]["params"].pop())),
        RESUME,
        r"optimizer has groups of \[10, 4\] tensors, this model's has \[10, 5\]",
    ),
    "a link": (
        alone(linked_away("ckpt.pt")),
        RESUME,
        r"ckpt\.pt is a .*link.*: put a copy of the file in its place",
    ),
    # in one of our run folders: no good checkpoint is left
    "all damaged": (
        every(lambda path: os.truncate(path, 1000)),
        RESUME,
        r"no good checkpoint in out: ckpt-000002\.pt has 1000 bytes, its manifest says \d+; ckpt-000001\.pt has 1000 "
        r"bytes, .*\. Put a good copy in .* start afresh with --init_from=scratch",
    ),
    "no content": (every(Path.unlink), RESUME, r"no good checkpoint in out: ckpt-000002\.pt is missing; ckpt-000001"),
    "a newer version's": (
        manifest(2, format=2),
        RESUME,
        r"ckpt-000002\.json is of format 2, this program knows 1: a newer",
    ),
    "a newer version's, auto": (
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


# damage to a run folder that holds a checkpoint of iteration 3 (ckpt.pt) and the last one, of iteration 4:
# the iteration at which a resume continues, and the pattern of its messages
FALL_BACK: dict[str, tuple[Prepare, int, str]] = {
    # ckpt.pt; the newest numbered checkpoint is used, whatever ckpt.pt is
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
    "ckpt.pt another file": (another_file, 4, r"out/ckpt\.pt is not a checkpoint .*; ckpt-000002\.pt is used instead"),
    "ckpt.pt exchanged": (
        renamed_in("ckpt.pt", b"text"),
        4,
        r"cannot read out/ckpt\.pt: .*; ckpt-000002\.pt is used instead",
    ),
    "ckpt.pt a link": (linked_away("ckpt.pt"), 4, r"ckpt\.pt is a .*link.*: .*; ckpt-000002\.pt is used instead"),
    # all but ckpt.pt, whose content matches one of the manifests
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
    # the newest
    "truncated": (
        truncated(100_000, "ckpt-000002.pt"),
        3,
        r"ckpt-000002\.pt has 100000 bytes, its manifest says \d+; ",
    ),
    "flipped": (flipped("ckpt-000002.pt"), 3, r"ckpt-000002\.pt is damaged: its checksum is not its manifest's; "),
    "removed": (removed("ckpt-000002.pt"), 3, r"ckpt-000002\.pt is missing; ckpt-000001\.pt is used instead"),
    "hostile": (
        renamed_in("ckpt-000002.pt", pickle.dumps({"model": Hostile()}, protocol=2)),
        3,
        r"ckpt-000002\.pt has \d+ bytes, its manifest says",
    ),
    "a link": (linked_away("ckpt-000002.pt"), 3, r"ckpt-000002\.pt is a symbolic link; ckpt-000001\.pt is used"),
    "an older one's content": (
        lambda: shutil.copy("out/ckpt-000001.pt", "out/ckpt-000002.pt") and None,
        3,
        r"ckpt-000002\.pt (is damaged: its checksum|has \d+ bytes, its manifest says) .*; ckpt-000001\.pt is used",
    ),
    "manifest lost": (removed("ckpt-000002.json"), 3, r"ckpt-000002\.pt has no manifest: its save was cut short, or"),
    "manifest truncated": (
        truncated(20, "ckpt-000002.json"),
        3,
        r"ckpt-000002\.json is damaged: it is not JSON; ckpt-000001",
    ),
    "manifest a list": (writing("out/ckpt-000002.json", b"[]"), 3, r"ckpt-000002\.json is no manifest"),
    "manifest incomplete": (
        writing("out/ckpt-000002.json", b"{}"),
        3,
        r"ckpt-000002\.json is damaged: its 'format' is",
    ),
    "manifest of a file outside": (
        manifest(2, file="../data/tiny/train.bin"),
        3,
        r"ckpt-000002\.json is the manifest of another checkpoint \('\.\./data",
    ),
    "manifest of another": (manifest(2, file="ckpt-000001.pt"), 3, r"the manifest of another checkpoint"),
}


def files(folder: Path) -> dict[str, bytes]:
    """Return the content of all files but the lock file, which holds the process id of the run."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path): path.read_bytes() for path in paths}


@pytest.fixture
def earlier_run(run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Make a run in out/ and return its command line."""
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

    assert isinstance(caught.value, error) and caught.value.exit_status == 2
    assert re.search(message, str(caught.value)), str(caught.value)
    assert len(str(caught.value)) < 1000
    assert files(Path("out")) == before and before
    assert not Path("pwned").exists()


@functools.cache
def undisturbed(*argv: str) -> str:
    """Return the hash of the undisturbed run; the same in every test."""
    train.main([*argv, "--out_dir=undisturbed"])
    return run_hash("undisturbed")


@pytest.mark.parametrize("name", FALL_BACK)
def test_damage_is_named_and_the_newest_good_checkpoint_is_used(
    name: str, earlier_run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    prepare, first, message = FALL_BACK[name]
    expected = undisturbed(*earlier_run)
    prepare()
    there = Path("out/ckpt.pt").exists()
    found = Path("out/ckpt.pt").read_bytes() if there else b""
    capsys.readouterr()

    train.main([*earlier_run, *RESUME])

    out, err = capsys.readouterr()
    assert re.findall(r"^iter (\d+):", out, re.MULTILINE) == [str(number) for number in range(first, 7)]
    lines = err.splitlines()
    moved = lines.pop() if lines[-1].endswith("it is now ckpt.pt.foreign") else None
    *messages, options, start = lines
    assert len(messages) == (1 + message.count("\n") if message else 0), err
    assert re.search(message, "\n".join(messages)) and all(line.startswith("out: ") for line in messages), err
    assert options.startswith("resume: the options differ")
    assert re.fullmatch(rf"resume: iteration {first} from ckpt-\S+, checksum and next batch verified", start)
    assert run_hash("out") == expected
    assert not Path("pwned").exists()
    if name.startswith("ckpt.pt") and there:  # another program's file is kept
        assert moved and Path("out/ckpt.pt.foreign").read_bytes() == found
    else:
        assert moved is None and not Path("out/ckpt.pt.foreign").exists()


@pytest.mark.parametrize("name", ["hostile checkpoint", "hostile pickle"])
def test_the_hostile_checkpoints_are_hostile(name: str, earlier_run: list[str]) -> None:
    CASES[name][0]()

    with contextlib.suppress(RuntimeError):  # the rest of the file is not a checkpoint
        torch.load("out/ckpt.pt", weights_only=False)
    assert Path("pwned").exists()


@pytest.mark.parametrize(
    "name",
    [
        "truncated",
        "hostile checkpoint",
        "a text",
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


def test_option_errors_are_raised_before_any_work(
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
    monkeypatch.setenv("WORLD_SIZE", "3")

    with pytest.raises(ConfigError, match=r"gradient_accumulation_steps=2 .* 3 processes: choose a multiple of 3"):
        train.main(earlier_run)
    assert files(Path("out")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser can write to read-only folders")
def test_a_read_only_out_dir(earlier_run: list[str]) -> None:
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


def test_a_prompt_with_unknown_characters(earlier_run: list[str]) -> None:
    before = files(Path("out"))

    with pytest.raises(DataError, match=r"17 characters lack 'X', 'é': remove them from the text, or prepare"):
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
