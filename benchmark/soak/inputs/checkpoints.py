"""Checkpoints and manifests with damaged bytes, altered archives, and wrong values inside."""

import io
import json
import math
import random
import shutil
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from benchmark.soak.inputs import edits
from benchmark.soak.inputs.base import RUNS, SAMPLE, TINY, Command, good_command
from core.checkpoint import manifest

DTYPES = (torch.float64, torch.float16, torch.int64, torch.bool, torch.complex64, torch.uint8)


def make(rng: random.Random, folder: Path) -> Command:
    """Damage the checkpoints of a run, and return a command line that reads them."""
    run = rng.choice([*RUNS, "out", "out"])
    out, changes = folder / run, []
    if rng.random() < 0.5:  # as another program leaves it
        _keep_ckpt_pt_only(out)
        changes.append("only ckpt.pt")
    for _ in range(rng.choice([1, 1, 1, 2])):
        edit = rng.choice(EDITS)
        edit(rng, out)
        changes.append(edit.__name__.strip("_"))
    command = good_command(rng) if rng.random() < 0.1 else Command(*_use(rng, run), [])
    return command._replace(changes=changes)


def _use(rng: random.Random, run: str) -> tuple[str, list[str]]:
    """Return a program that reads the checkpoints of a run, and its arguments."""
    resume = [f"--out_dir={run}", "--init_from=resume"]
    own, longer = ([*TINY, *RUNS[run]], ["--max_iters=4"]) if rng.random() < 0.5 else (["--device=cpu"], [])
    name = rng.choice(["ckpt.pt", "ckpt-000003.pt", "ckpt-000004.pt"])
    commands: dict[str, tuple[str, list[str]]] = {
        "resume": ("train.py", [*own, *resume, *longer]),
        "auto": ("train.py", [*TINY, *RUNS[run], f"--out_dir={run}", "--init_from=auto"]),
        "evaluate": ("train.py", [*own, *resume, "--eval_only=True"]),
        "sample": ("sample.py", [*SAMPLE, f"--out_dir={run}"]),
        "judge": ("sample.py", [*SAMPLE, "--out_dir=out-mask", f"--judge={run}", "--judge_candidates=2"]),
        "transfer": ("train.py", [*TINY, *RUNS[run], "--out_dir=new", f"--init_from_checkpoint={run}/{name}"]),
        "named": ("train.py", [*own, *resume, *longer, f"--ckpt_filename={name}"]),
        "hash": ("tools.run_hash", [run]),
        "convert": ("tools.convert", [f"{run}/{name}", "--out", "converted"]),
        "report": ("tools.objective_report", [run, "--to", "pictures"]),
        "curve": ("tools.curve", [run]),
    }
    return commands[rng.choice([*commands, "resume", "resume", "sample"])]


def _keep_ckpt_pt_only(out: Path) -> None:
    content = (out / "ckpt.pt").read_bytes()
    shutil.rmtree(out)
    out.mkdir()
    (out / "ckpt.pt").write_bytes(content)


# of files


def _file_damaged(rng: random.Random, out: Path) -> None:
    path = rng.choice(_files(out))
    _replace(path, edits.damaged(rng, path.read_bytes())[1])


def _file_removed(rng: random.Random, out: Path) -> None:
    rng.choice(_files(out)).unlink()


def _file_exchanged(rng: random.Random, out: Path) -> None:
    """A file has the content of another one, perhaps of another run."""
    other = rng.choice(_files(out.parent / rng.choice([*RUNS])) or _files(out))
    _replace(rng.choice(_files(out)), other.read_bytes())


def _file_renamed(rng: random.Random, out: Path) -> None:
    names = ("ckpt.pt", "ckpt-000009.pt", "ckpt-000009.json", "ckpt-abc.pt", "ckpt-9999999999999.pt", "ckpt--1.json")
    rng.choice(_files(out)).rename(out / rng.choice(names))


def _no_file(rng: random.Random, out: Path) -> None:
    path = rng.choice(_files(out))
    path.unlink()
    if target := rng.choice([None, path.name, "/dev/zero", "/dev/null", "."]):
        path.symlink_to(target)
    else:
        path.mkdir()


def _archive_altered(rng: random.Random, out: Path) -> None:
    """The zip file that torch.save writes is written anew with one entry changed."""
    path = rng.choice(_checkpoints(out))
    content = path.read_bytes()
    with suppress(Exception):  # damaged by an earlier edit
        if zipfile.ZipFile(io.BytesIO(content)).testzip() is None:
            _replace(path, _altered(rng, content))


def _altered(rng: random.Random, content: bytes) -> bytes:
    """Return a zip file with one entry dropped, renamed, damaged or written twice, or with another form."""
    buffer = io.BytesIO()
    change = rng.choice(["drop", "rename", "damage", "damage", "compress", "folder", "twice"])
    with warnings.catch_warnings(), zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        warnings.simplefilter("ignore")  # of one name twice
        names = old.namelist()
        chosen = rng.choice([*names, *(name for name in names if "/data/" not in name)])
        for name in names:
            entry, data = name, old.read(name)
            if name == chosen and change == "drop":
                continue
            if name == chosen and change == "damage":
                data = edits.damaged(rng, data)[1]
            if change == "folder" or (name == chosen and change == "rename"):
                entry = f"x/{name.partition('/')[2]}" if change == "folder" else f"{name}x"
            for _ in range(2 if name == chosen and change == "twice" else 1):
                new.writestr(entry, data, zipfile.ZIP_DEFLATED if change == "compress" else zipfile.ZIP_STORED)
    return buffer.getvalue()


def _values_changed(rng: random.Random, out: Path) -> None:
    """A checkpoint is loaded, changed in one or two places, and saved; its manifest may be made to fit."""
    path = rng.choice(_checkpoints(out))
    try:
        content = torch.load(path, weights_only=True)
    except Exception:  # damaged by an earlier edit
        return
    for _ in range(rng.choice([1, 1, 2])):
        change_value(rng, content)
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=rng.random() < 0.9)
    _replace(path, buffer.getvalue())
    if rng.random() < 0.5:
        _make_fit(path)


def change_value(rng: random.Random, content: Any) -> None:
    """Remove, rename or replace one value somewhere inside nested dicts and lists."""
    place = content
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = rng.choice(keys)
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.15:
            break
        place = inner
    change = rng.choice(["remove", "rename", "value", "value", "like", "like"])
    if change == "remove":
        del place[key]
    elif change == "rename" and isinstance(place, dict):
        place[edits.misspelt(rng, key) if isinstance(key, str) else edits.value(rng, 9)] = place.pop(key)
    else:
        place[key] = _like(rng, inner) if change == "like" else edits.value(rng)


def _like(rng: random.Random, value: Any) -> Any:
    """Return a value of a similar kind: another number, or a tensor of another shape, type or content."""
    if not isinstance(value, torch.Tensor):
        if isinstance(value, str):
            return rng.choice(edits.WORDS)
        return rng.choice(edits.NUMBERS) if isinstance(value, int | float) else edits.value(rng)
    forms: list[Callable[[], torch.Tensor]] = [
        lambda: value.flatten(),
        lambda: value[:-1].clone() if value.dim() else value.reshape(1),
        lambda: value.unsqueeze(0),
        lambda: value.t().contiguous() if value.dim() == 2 else torch.tensor(1.0),
        lambda: torch.empty(0),
        lambda: value.to(rng.choice(DTYPES)),
        lambda: torch.full_like(value, rng.choice([math.nan, math.inf, 1e30])) if value.is_floating_point() else ~value,
        lambda: value.to_sparse() if value.dim() and value.dtype != torch.uint8 else value,
        lambda: value.to("meta"),
        lambda: value[:1].expand_as(value) if value.dim() else value,
    ]
    return rng.choice(forms)()


# of manifests


def _manifest_changed(rng: random.Random, out: Path) -> None:
    """A manifest has another value, name or content; half of the time it is sealed again."""
    if not (paths := sorted(out.glob("ckpt-*.json"))):
        return
    path = rng.choice(paths)
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return
    if not isinstance(content, dict):
        return
    change_value(rng, content)
    text = json.dumps(content, default=str, skipkeys=True).encode("utf-8", "surrogatepass")
    _replace(path, text)


def _make_fit(path: Path) -> None:
    """Write the checksum and size of a changed checkpoint into its manifest, as a tool of somebody may do."""
    notes = path.with_suffix(".json")
    try:
        content = manifest.read(notes)
    except Exception:  # there is none, or it is damaged
        return
    manifest.write(notes, manifest.describe(path, content["sequence"], content))


def _files(out: Path) -> list[Path]:
    found = [path for path in sorted(out.iterdir()) if path.is_file() and path.name != ".lock"]
    return found or [_new_file(out / "ckpt.pt")]


def _checkpoints(out: Path) -> list[Path]:
    return [path for path in _files(out) if path.suffix == ".pt"] or [_new_file(out / "ckpt.pt")]


def _new_file(path: Path) -> Path:
    if path.is_dir():
        path = path.with_name("another.pt")
    path.unlink(missing_ok=True)
    path.write_bytes(b"")
    return path


def _replace(path: Path, content: bytes) -> None:
    """Write a new file in place of one; other hard links keep their content."""
    path.unlink()
    path.write_bytes(content)


EDITS: tuple[Callable[[random.Random, Path], None], ...] = (
    *[_values_changed] * 6,
    *[_archive_altered] * 2,
    *[_file_damaged] * 2,
    *(_file_removed, _file_exchanged, _file_renamed, _no_file, _manifest_changed, _manifest_changed),
)
