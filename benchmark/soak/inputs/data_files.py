"""Data sets with damaged or foreign token files, and with vocabularies of many kinds in meta.pkl."""

import io
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark.soak.campaign import CHARS
from benchmark.soak.inputs import edits
from benchmark.soak.inputs.base import FILLS_QUEUE, QUEUE, READS_QUEUE, RUNS, SAMPLE, TINY, Command, good_command
from benchmark.soak.inputs.checkpoints import change_value
from data.meta_contents import MODEL_FILES, NAMES, TO_ID, TO_TOKEN

WORDS = ("the", "of", "and", "a", "b", " ", "\n", "é", "日", "", "<unk>", "##ing", "▁to")
DTYPES = ("<i8", "<i4", "<u4", "<i2", ">u2", "u1", "<f4", "<f8", "<f2", "?", "<c8")


def make(rng: random.Random, folder: Path) -> Command:
    """Change files of a data set, a queue of batches or a text, and return a command line that reads them."""
    kind = rng.choice(["text", "queue", *["tokens"] * 6])
    if kind != "tokens":
        return _changed_text(rng, folder) if kind == "text" else _changed_queue(rng, folder)
    data, changes = folder / "data" / "tiny", []
    for _ in range(rng.choice([1, 1, 1, 2])):
        edit = rng.choice(FILE_EDITS)
        name = rng.choice(["meta.pkl"] if edit in META_EDITS else ["train.bin", "val.bin", "meta.pkl"])
        edit(rng, data / name)
        changes.append(f"{name} {edit.__name__.strip('_')}")
    command = good_command(rng, ["train.py", "train.py", "train.py", "sample.py", "tools.masking_report"])
    return command._replace(changes=changes)


def _changed_text(rng: random.Random, folder: Path) -> Command:
    """Damage a text, and return a command line of a program that reads it."""
    path = folder / "book.txt"
    name, content = edits.damaged(rng, path.read_bytes())
    path.write_bytes(content)
    prepare = good_command(rng, ["prepare.py"]).argv
    run = rng.choice([*RUNS])
    commands = {
        "prepare.py": prepare,
        "sample.py": [*SAMPLE, f"--out_dir={run}", rng.choice(["--start=FILE:book.txt", "--original=FILE:book.txt"])],
    }
    program = rng.choice([*commands])
    return Command(program, commands[program], [f"book.txt {name}"])


def _changed_queue(rng: random.Random, folder: Path) -> Command:
    """Damage a file of the queue, and return the command line of its producer or of a run that reads it."""
    paths = [path for path in sorted((folder / QUEUE).rglob("*")) if path.is_file()]
    batches = [path for path in paths if path.suffix == ".pt"]
    path, change = rng.choice([*paths, *batches]), rng.choice(["damaged", "removed", "no file", "value", "value"])
    if change == "value" and path.suffix == ".pt":
        content = torch.load(path, weights_only=True)
        change_value(rng, content)
        torch.save(content, path)
    elif change == "removed":
        path.unlink()
    elif change == "no file":
        _in_place_of_a_file(rng, path)
    else:
        _damaged(rng, path)
    commands = {"train.py": [*TINY, *READS_QUEUE], "prepare_streaming.py": [*FILLS_QUEUE, "--max_backlog_files=3"]}
    program = rng.choice(["train.py", "train.py", "prepare_streaming.py"])
    return Command(program, commands[program], [f"{path.name} {change}"])


def _damaged(rng: random.Random, path: Path) -> None:
    content = path.read_bytes() if path.is_file() else b""
    _replace(path, edits.damaged(rng, content)[1])


def _removed(rng: random.Random, path: Path) -> None:
    _remove(path)


def _in_place_of_a_file(rng: random.Random, path: Path) -> None:
    _remove(path)
    makers: list[Callable[[], Any]] = [
        lambda: path.mkdir(),
        lambda: os.mkfifo(path),
        lambda: path.symlink_to(path.name),
        lambda: path.symlink_to("nothing"),
        lambda: path.symlink_to("/dev/zero"),
        lambda: path.symlink_to("/dev/null"),
        lambda: path.symlink_to(path.parent),
    ]
    rng.choice(makers)()


def _other_numbers(rng: random.Random, path: Path) -> None:
    tokens = _tokens(rng)
    dtype = rng.choice(DTYPES)
    array = tokens.astype(dtype)
    if rng.random() < 0.2:
        buffer = io.BytesIO()
        rng.choice([np.save, np.savez, np.savez_compressed])(buffer, array)
        _replace(path, buffer.getvalue())
    else:
        _replace(path, array.tobytes()[: rng.choice([None, -1, 31, 34])])


def _ids_beyond(rng: random.Random, path: Path) -> None:
    tokens = _tokens(rng).astype(np.uint16)
    for _ in range(rng.choice([1, 1, 3, 500])):
        tokens[rng.randrange(len(tokens))] = rng.choice([len(CHARS), 255, 256, 32_767, 50_256, 65_535])
    _replace(path, tokens.tobytes())


def _random_ids(rng: random.Random, path: Path) -> None:
    _replace(path, rng.randbytes(2 * rng.choice([0, 1, 16, 17, 18, 1000])))


def _tokens(rng: random.Random) -> Any:
    draw = np.random.default_rng(rng.randrange(2**32))
    return draw.integers(0, len(CHARS), rng.choice([1, 17, 40, 2000]))


# of meta.pkl


def _another_vocabulary(rng: random.Random, path: Path) -> None:
    meta = vocabulary(rng)
    try:
        _replace(path, pickle.dumps(meta, protocol=rng.randrange(6)))
    except (pickle.PicklingError, ValueError, AttributeError):
        _replace(path, pickle.dumps(None))


def _an_edited_vocabulary(rng: random.Random, path: Path) -> None:
    stoi = {char: number for number, char in enumerate(CHARS)}
    meta: Any = {"vocab_size": len(CHARS), "stoi": stoi, "itos": dict(enumerate(CHARS))}
    for _ in range(rng.choice([1, 1, 2])):
        key = rng.choice([*meta, "dtype", "tokenizer", "mask_token_id"])
        table = meta.get(key)
        if isinstance(table, dict) and table and rng.random() < 0.7:
            table[rng.choice([rng.choice([*table]), "new", -1, None])] = edits.value(rng)
        else:
            meta[key] = edits.value(rng)
    _replace(path, pickle.dumps(meta))


def _an_object(rng: random.Random, path: Path) -> None:
    """A pickle of something else, some of which would run code."""
    calls = (
        b"cos\nsystem\n(S'true'\ntR.",
        b"c__builtin__\neval\n(S'1'\ntR.",
        b"cnumpy\nndarray\n(tR.",
        b"cbuiltins\nset\n.",
    )
    values = (
        edits.value(rng),
        {1, 2},
        1 + 2j,
        range(3),
        Path("x"),
        np.arange(3),
        np.float32(1),
        slice(1),
        OSError(),
        b"x",
    )
    _replace(path, rng.choice([*calls, *(pickle.dumps(value, protocol=rng.randrange(6)) for value in values)]))


def vocabulary(rng: random.Random) -> dict[Any, Any]:
    """Return a random dict of what people's prepare scripts write."""
    meta: dict[Any, Any] = {}
    for _ in range(rng.randrange(1, 4)):
        names = rng.choice([TO_ID, TO_TOKEN, NAMES, MODEL_FILES, ("vocab_size", "dtype", "n_vocab", "mask_token_id")])
        meta[rng.choice(names)] = _table(rng) if names in (TO_ID, TO_TOKEN) and rng.random() < 0.8 else edits.value(rng)
    if rng.random() < 0.5:
        meta["vocab_size"] = rng.choice([len(CHARS), 13, 256, np.int64(17), edits.value(rng)])
    return meta


def _table(rng: random.Random) -> Any:
    tokens: list[Any] = rng.choice([list(CHARS), list(WORDS), [word.encode() for word in WORDS], list(range(256))])
    ids: list[Any] = list(range(len(tokens)))
    if rng.random() < 0.4:
        ids[rng.randrange(len(ids))] = rng.choice([-1, 0, 10**6, 2**70, 1.5, None, "1", True, "\ud800"])
    if rng.random() < 0.2:
        tokens[rng.randrange(len(tokens))] = rng.choice([None, 3, "", b"\xff", "\ud800", (1, 2), 1.5])
    forms: list[Callable[[], Any]] = [
        lambda: dict(zip(tokens, ids, strict=True)),
        lambda: dict(zip(ids, tokens, strict=True)),
        lambda: {str(number): token for number, token in zip(ids, tokens, strict=True)},
        lambda: tokens,
        lambda: tuple(tokens),
        lambda: np.array(list(CHARS)),
        lambda: np.array(tokens, dtype=object),
        lambda: set(CHARS),
        lambda: CHARS,
        lambda: {np.int64(number): np.str_(char) for number, char in enumerate(CHARS)},
        lambda: {},
        lambda: [],
    ]
    return rng.choice(forms)()


def _replace(path: Path, content: bytes) -> None:
    _remove(path)
    path.write_bytes(content)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


META_EDITS = (_another_vocabulary, _an_edited_vocabulary, _an_object)
FILE_EDITS = (*[_damaged] * 3, _removed, _in_place_of_a_file, _other_numbers, _ids_beyond, _random_ids, *META_EDITS * 2)
