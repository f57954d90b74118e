"""OptimizedGPT2 files of the D line: converted to a model that computes the same, sampled, resumed, or refused."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import sample
import train
from core.checkpoint.format import load_checkpoint
from core.errors import CheckpointError, ConfigError
from data.meta import write_meta
from model import GPT, GPTConfig
from tools.convert import convert, main, read

State = dict[str, Any]
VOCAB, LENGTH, WIDTH, HEADS, LAYERS = 61, 12, 24, 3, 2
CONFIG = {
    "vocab_size": VOCAB,
    "context_length": LENGTH,
    "emb_dim": WIDTH,
    "n_heads": HEADS,
    "n_layers": LAYERS,
    "drop_rate": 0.1,
    "qkv_bias": False,
}


def weights(qkv_bias: bool = False, vocab: int = VOCAB) -> dict[str, Tensor]:
    """Return random weights under the names of an OptimizedGPT2, in its order."""
    draw = torch.Generator().manual_seed(5)

    def numbers(*shape: int, mean: float = 0.0) -> Tensor:
        return torch.randn(shape, generator=draw) * 0.3 + mean

    def linear(name: str, inner: int, outer: int, bias: bool = True) -> State:
        return {f"{name}.weight": numbers(outer, inner), **({f"{name}.bias": numbers(outer)} if bias else {})}

    def norm(name: str) -> State:
        return {f"{name}.weight": numbers(WIDTH, mean=1.0), f"{name}.bias": numbers(WIDTH)}

    state = {
        "token_embedding.weight": numbers(vocab, WIDTH),
        "positional_embedding.weight": numbers(LENGTH, WIDTH),
    }
    for block in (f"blocks.{layer}" for layer in range(LAYERS)):
        state |= {f"{block}.ls1": numbers(WIDTH, mean=0.1), f"{block}.ls2": numbers(WIDTH, mean=0.1)}
        state |= norm(f"{block}.ln1")
        state[f"{block}.attn.mask"] = torch.ones(LENGTH, LENGTH).triu(diagonal=1)
        state |= linear(f"{block}.attn.qkv_proj", WIDTH, 3 * WIDTH, bias=qkv_bias)
        state |= linear(f"{block}.attn.out_proj", WIDTH, WIDTH)
        state |= norm(f"{block}.ln2")
        state |= {**linear(f"{block}.mlp.fc1", WIDTH, 4 * WIDTH), **linear(f"{block}.mlp.fc2", 4 * WIDTH, WIDTH)}
    return {**state, **norm("ln_f"), "lm_head.weight": state["token_embedding.weight"]}


def logits_there(state: dict[str, Tensor], ids: Tensor) -> Tensor:
    """Return the logits (T, V) of token ids (T,) by the D line's formulas, without dropout."""
    x = state["token_embedding.weight"][ids] + state["positional_embedding.weight"][: len(ids)]
    past = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(dim=-1, keepdim=True) + 1e-5).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", torch.zeros(()))

    for block in (f"blocks.{layer}" for layer in range(LAYERS)):
        heads, size = [], WIDTH // HEADS
        qkv = linear(norm(x, f"{block}.ln1"), f"{block}.attn.qkv_proj")
        for head in qkv.split(3 * size, dim=1):  # of each head: queries, keys, values
            q, k, v = head.split(size, dim=1)
            scores = (q @ k.T / math.sqrt(size)).masked_fill(~past, -math.inf)
            heads.append(scores.softmax(dim=-1) @ v)
        x = x + state[f"{block}.ls1"] * linear(torch.cat(heads, dim=1), f"{block}.attn.out_proj")
        hidden = F.gelu(linear(norm(x, f"{block}.ln2"), f"{block}.mlp.fc1"), approximate="tanh")
        x = x + state[f"{block}.ls2"] * linear(hidden, f"{block}.mlp.fc2")
    return norm(x, "ln_f") @ state["token_embedding.weight"].T


def logits_here(checkpoint: State, ids: Tensor) -> Tensor:
    model = GPT(GPTConfig(**checkpoint["model_args"])).eval()
    model.load_state_dict(checkpoint["model"])
    with torch.no_grad():
        return model(ids[None], ids[None])[0][0]


def checkpoint_there(**changes: Any) -> State:
    """Return what the D line saves at update 250."""
    state = weights()
    unlike = [torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))]
    optimizer = torch.optim.AdamW(unlike, lr=3e-4)
    schedule = {"warmup_steps": 10, "total_steps": 500, "last_epoch": 250, "_step_count": 251, "_last_lr": [1e-4]}
    return {
        "model_state_dict": state,
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": schedule,
        "scaler_state_dict": None,
        "config": CONFIG,
        **changes,
    }


@pytest.mark.parametrize("qkv_bias", [False, True])
@pytest.mark.parametrize("is_bare", [False, True])
def test_the_converted_model_computes_the_same(tmp_path: Path, qkv_bias: bool, is_bare: bool) -> None:
    state = weights(qkv_bias)
    torch.save(state if is_bare else checkpoint_there(model_state_dict=state), tmp_path / "best_model.pth")
    path = main([str(tmp_path / "best_model.pth"), *([f"--n_head={HEADS}"] if is_bare else [])])
    assert path == tmp_path / "best_model-converted" / "ckpt.pt"
    checkpoint = load_checkpoint(path)
    ids = torch.randint(VOCAB, (LENGTH,), generator=torch.Generator().manual_seed(1))

    there, here = logits_there(state, ids), logits_here(checkpoint, ids)
    assert (there - here).abs().max() < 1e-5 < there.abs().max() / 10
    assert checkpoint["iter_num"] == (0 if is_bare else 250)
    assert checkpoint["model_args"]["dropout"] == (0.0 if is_bare else 0.1)
    assert checkpoint["model"]["lm_head.weight"].equal(state["token_embedding.weight"])


def test_a_compiled_model_in_half_precision_is_read(tmp_path: Path) -> None:
    state = {name: tensor.half() for name, tensor in weights().items()}
    torch.save(checkpoint_there(model_state_dict={f"_orig_mod.{name}": t for name, t in state.items()}), tmp_path / "a")
    checkpoint, _ = convert(read(tmp_path / "a"))
    ids = torch.arange(LENGTH)

    there = logits_there({name: tensor.float() for name, tensor in state.items()}, ids)
    assert (there - logits_here(checkpoint, ids)).abs().max() < 1e-5


def test_the_converted_checkpoint_is_sampled_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data/chem").mkdir(parents=True)
    characters = [chr(ord("A") + number) for number in range(VOCAB)]
    numbers = {character: number for number, character in enumerate(characters)}
    write_meta(Path("data/chem/meta.pkl"), {"vocab_size": VOCAB, "stoi": numbers, "itos": dict(enumerate(characters))})
    for split in ("train", "val"):
        np.array([number % VOCAB for number in range(300)], dtype=np.uint16).tofile(f"data/chem/{split}.bin")
    torch.save(checkpoint_there(config={**CONFIG, "drop_rate": 0.0}), "checkpoint_step_250.pth")
    main(["checkpoint_step_250.pth", "--out=out", "--dataset=chem"])
    assert capsys.readouterr().out.splitlines() == [
        "out/ckpt.pt: the language_model model of checkpoint_step_250.pth, after 250 iterations",
        "  AdamW's moments are not converted: a resume begins with new ones",
    ]
    argv = ["--out_dir=out", "--device=cpu"]
    sample.main([*argv, "--num_samples=1", "--max_new_tokens=4", "--start=ABC", "--temperature=0"])
    ids = [0, 1, 2]
    for _ in range(4):
        ids.append(int(logits_there(weights(), torch.tensor(ids))[-1].argmax()))
    assert "".join(characters[number] for number in ids) in capsys.readouterr().out

    settings = ["--dataset=chem", "--block_size=8", "--batch_size=2", "--eval_iters=1", "--max_iters=251"]
    train.main([*argv, *settings, "--init_from=resume", "--compile=False", "--gradient_accumulation_steps=1"])
    after = load_checkpoint("out/ckpt-000001.pt")
    assert after["iter_num"] == 252 and after["model_args"]["activation"] == "gelu_tanh"
    assert {moments["step"].item() for moments in after["optimizer"]["state"].values()} == {2}


def test_notes_say_what_differs(tmp_path: Path) -> None:
    checkpoint, notes = convert(checkpoint_there())
    assert any("dropout=0.1 acts on other places here" in note for note in notes)
    assert any("its data set is not known" in note for note in notes)
    named, notes = convert(checkpoint_there(), dataset="chem")
    assert named["config"] == {**checkpoint["config"], "dataset": "chem"} and len(notes) == 2
    _, notes = convert(checkpoint_there(model_state_dict=weights(vocab=50257)))  # GPT-2's tokens need no data set
    assert len(notes) == 2


def changed(**changes: Tensor) -> dict[str, Tensor]:
    return {**weights(), **{name.replace("__", "."): tensor for name, tensor in changes.items()}}


def without(name: str) -> dict[str, Tensor]:
    return {other: tensor for other, tensor in weights().items() if other != name}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (changed(lm_head__weight=torch.ones(VOCAB, WIDTH)), "lm_head.weight is not the token embedding, as it is in"),
        (changed(blocks__1__gate=torch.ones(3)), "do not fit this program's model: blocks.1.gate is not known"),
        (changed(blocks__0__ls1=torch.ones(3)), r"blocks.0.ls1 has shape \(3,\), wanted \(24,\)"),
        (without("blocks.1.ls2"), "blocks.1.ls2 is missing"),
        (without("blocks.0.attn.out_proj.bias"), "blocks.0.attn.out_proj.bias is missing"),
        (without("token_embedding.weight"), "token_embedding.weight is missing"),
    ],
)
def test_what_our_model_lacks_is_refused(state: dict[str, Tensor], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        convert(checkpoint_there(model_state_dict=state))


def test_the_number_of_heads_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="weights alone, which do not show the number of heads: give --n_head=N"):
        convert(weights())
    with pytest.raises(ConfigError, match="^7 heads do not divide the 24 channels of the weights: give the right --n"):
        convert(weights(), n_head=7)
    with pytest.raises(ConfigError, match="^--n_head=2, but the checkpoint says 3: remove it"):
        convert(checkpoint_there(), n_head=2)
    with pytest.raises(ConfigError, match="^--mode=sequence_scorer: this checkpoint is a language_model, and has no"):
        convert(checkpoint_there(), "sequence_scorer")


def test_other_programs_say_what_to_do(tmp_path: Path) -> None:
    torch.save(checkpoint_there(), tmp_path / "ckpt.pt")
    with pytest.raises(
        CheckpointError, match=r"an OptimizedGPT2 of the D line: convert it with `.*tools.convert FILE`"
    ):
        load_checkpoint(tmp_path / "ckpt.pt")
    torch.save({"transformer_blocks.0.mha.qkv.weight": torch.ones(3)}, tmp_path / "ckpt.pt")
    with pytest.raises(
        CheckpointError, match="a GPT2 of the D line, whose head is not tied to its embedding: it cannot"
    ):
        main([str(tmp_path / "ckpt.pt")])
