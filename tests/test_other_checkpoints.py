"""Checkpoints of other days and other programs are sampled from, evaluated and resumed like today's nanoGPT's."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import core
import sample
import train
from model import GPT
from tests.core.test_optimizer import older_state

NANOGPT = ["model", "optimizer", "model_args", "iter_num", "best_val_loss", "config"]
SEVEN = {"n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size", "dropout"}
MASK = torch.ones(16, 16).tril().view(1, 1, 16, 16)
Content = dict[str, Any]


@pytest.fixture
def content(run_dir: Path, tiny_model: GPT) -> Content:
    """Return what nanoGPT saves after three updates of the tiny model."""
    optimizer = tiny_model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cpu")
    for _ in range(3):
        tokens = torch.randint(17, (4, 17))
        tiny_model(tokens[:, :-1], tokens[:, 1:])[1].backward()
        optimizer.step()
        optimizer.zero_grad()
    args = dict(n_layer=2, n_head=2, n_embd=32, block_size=16, bias=False, vocab_size=17, dropout=0.0)
    return {
        "model": {name: tensor.detach().clone() for name, tensor in tiny_model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "older": older_state(tiny_model, optimizer, moved=False),
        "model_args": args,
        "iter_num": 3,
        "best_val_loss": torch.tensor(2.5),
        "config": {"dataset": "tiny"},
    }


def write(folder: str, content: Content) -> None:
    Path(folder).mkdir()
    torch.save({key: value for key, value in content.items() if key != "older"}, Path(folder, "ckpt.pt"))


def wrapped(content: Content, prefix: str) -> Content:
    return {**content, "model": {prefix + name: tensor for name, tensor in content["model"].items()}}


def without(content: Content, *names: str) -> Content:
    return {key: value for key, value in content.items() if key not in names}


def less_weights(content: Content, name: str) -> Content:
    return {**content, "model": without(content["model"], name)}


def less_args(content: Content, *names: str) -> Content:
    return {**content, "model_args": without(content["model_args"], *names)}


def masked(content: Content) -> Content:
    masks = {f"transformer.h.{layer}.attn.bias": MASK for layer in range(2)}
    numbers = {f"transformer.h.{layer}.attn.masked_bias": torch.tensor(-1e4) for layer in range(2)}
    return {**content, "model": {**content["model"], **masks, **numbers}}


KINDS: dict[str, Callable[[Content], Content]] = {
    "masks": masked,
    "masks and prefixes": lambda c: wrapped(masked(c), "module._orig_mod."),
    "prefixes of FSDP and torch.compile": lambda c: wrapped(c, "_fsdp_wrapped_module._orig_mod._fsdp_wrapped_module."),
    "a prefix of Lightning and DDP": lambda c: wrapped(c, "model.module."),
    "no head": lambda c: less_weights(c, "lm_head.weight"),
    "no token embedding": lambda c: less_weights(c, "transformer.wte.weight"),
    "no vocab_size and bias": lambda c: less_args(c, "vocab_size", "bias", "dropout"),
    "vocab_size None": lambda c: {**c, "model_args": {**c["model_args"], "vocab_size": None}},
    "no config": lambda c: without(c, "config"),
    "config None": lambda c: {**c, "config": None},
    "NumPy's numbers": lambda c: {
        **c,
        "iter_num": np.int64(3),
        "best_val_loss": np.float64(2.5),
        "model_args": {**c["model_args"], "n_head": np.int64(2), "bias": np.bool_(False)},
    },
    "counters that are tensors": lambda c: {**c, "iter_num": torch.tensor(3)},
    "older order": lambda c: {**c, "optimizer": c["older"]},
    "a key of a fork": lambda c: {**c, "wandb_id": "x", "tokens_seen": 12},
}


def resumed(argv: list[str], folder: str) -> list[float]:
    """Resume a folder for three updates, and return all losses."""
    train.main([*argv, f"--out_dir={folder}", "--init_from=resume", "--max_iters=5", "--dropout=0.0"])
    lines = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["event"] == "step"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_resume_gives_the_losses_of_todays_form_and_saves_it(
    content: Content, tiny_argv: list[str], kind: str
) -> None:
    write("today", content)
    write("other", KINDS[kind](content))

    assert resumed(tiny_argv, "other") == resumed(tiny_argv, "today")

    saved, expected = (torch.load(f"{name}/ckpt.pt", weights_only=True) for name in ("other", "today"))
    assert [*saved][:6] == NANOGPT and set(saved["model_args"]) == SEVEN
    assert list(saved["model"]) == list(expected["model"]) and saved["model_args"] == expected["model_args"]
    assert all(torch.equal(saved["model"][name], tensor) for name, tensor in expected["model"].items())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "config" not in kind])
def test_a_sample_is_the_text_of_todays_form(content: Content, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    write("today", content)
    write("other", KINDS[kind](content))
    texts = []
    for folder in ("today", "other"):
        sample.main([f"--out_dir={folder}", "--device=cpu", "--num_samples=1", "--max_new_tokens=20", "--start=abc"])
        texts.append(capsys.readouterr().out.split("meta.pkl...")[1])

    assert texts[0] == texts[1]


@pytest.mark.parametrize("lacking", [["optimizer"], ["best_val_loss"], ["optimizer", "iter_num", "best_val_loss"]])
def test_weights_without_the_rest_are_trained_on(
    content: Content, tiny_argv: list[str], lacking: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write("out", without(content, *lacking))

    losses = resumed(tiny_argv, "out")

    assert len(losses) == (6 if "iter_num" in lacking else 3)
    assert capsys.readouterr().err.count(f"resume: the checkpoint lacks {lacking[0]} (") == 1
    saved = core.load_checkpoint(core.find_latest_checkpoint("out"))
    assert [*saved][:6] == NANOGPT and isinstance(saved["best_val_loss"], torch.Tensor)
    assert len(saved["optimizer"]["state"]) == 15


def test_a_rollback_to_weights_without_moments_starts_with_fresh_ones(content: Content, tiny_argv: list[str]) -> None:
    class MakesNaN(core.Callback):
        def on_step_begin(self, trainer: core.Trainer) -> None:
            if trainer.iter_num == 4 and not trainer.monitor.history:
                trainer.raw_model.transformer["ln_f"].weight.data.fill_(float("nan"))

    write("out", without(content, "optimizer"))
    argv = [*tiny_argv, "--out_dir=out", "--init_from=resume", "--max_iters=5", "--eval_interval=100"]
    train.main(argv, [MakesNaN()])

    saved = core.load_checkpoint(core.find_latest_checkpoint("out"))
    assert saved["iter_num"] == 6 and len(saved["recovery"]["history"]) == 1


def test_a_checkpoint_behind_a_link_is_sampled_evaluated_and_transferred(
    content: Content, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write("blobs", content)
    Path("hub").mkdir()
    Path("hub/ckpt.pt").symlink_to("../blobs/ckpt.pt")
    before = Path("blobs/ckpt.pt").read_bytes()

    sample.main(["--out_dir=hub", "--device=cpu", "--num_samples=1", "--max_new_tokens=9"])
    train.main([*tiny_argv, "--out_dir=hub", "--init_from=resume", "--eval_only=True"])
    train.main([*tiny_argv, "--out_dir=new", "--init_from_checkpoint=hub", "--max_iters=1"])
    assert [path.name for path in Path("hub").iterdir()] == ["ckpt.pt"] and Path("hub/ckpt.pt").is_symlink()

    train.main([*tiny_argv, "--out_dir=hub", "--init_from=resume", "--max_iters=5"])
    assert Path("blobs/ckpt.pt").read_bytes() == before and not Path("hub/ckpt.pt").is_symlink()
    train.main([*tiny_argv, "--out_dir=hub", "--init_from=scratch", "--max_iters=1"])
    assert Path("hub/previous-1/ckpt.pt.foreign").resolve() == Path("blobs/ckpt.pt").resolve()
