"""Sampling from a checkpoint: the printed text for each kind of model and prompt, and the errors."""

import io
import math
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import sample
import train
import wiring.sampling
from core import CheckpointError, CheckpointManager, ConfigError, DataError
from data.meta import write_meta
from extras.sampling.unmask_sampler import UnmaskSampler, masked_shares
from model import GPT, GPTConfig

ROOT = Path(__file__).parents[1]
CPU = ["--device=cpu", "--num_samples=2", "--max_new_tokens=12"]


@pytest.fixture
def checkpoint(run_dir: Path, tiny_model: GPT) -> dict[str, Any]:
    """Save a checkpoint of a model with large weights in out/, in nanoGPT's format; return its content."""
    with torch.no_grad():
        for parameter in tiny_model.parameters():
            parameter.mul_(5)
    shape = dict(n_layer=2, n_head=2, n_embd=32, block_size=16, bias=False, vocab_size=17, dropout=0.2)
    content = {
        "model": tiny_model.state_dict(),
        "optimizer": {"state": {}, "param_groups": []},
        "model_args": shape,
        "iter_num": 5,
        "best_val_loss": torch.tensor(2.5),
        "config": {"dataset": "tiny", "out_dir": "out"},
    }
    save(content)
    return content


def save(content: Any) -> None:
    Path("out").mkdir(exist_ok=True)
    torch.save(content, "out/ckpt.pt")


def printed(argv: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the texts that `sample.py argv` prints after its header."""
    capsys.readouterr()
    sample.main(argv)
    return capsys.readouterr().out.split("meta.pkl...\n")[1].split("\n---------------\n")


def generated(
    model: GPT,
    prompt: str,
    *,
    seed: int = 1337,
    count: int = 2,
    new: int = 12,
    temperature: float = 0.8,
    top_k: int | None = 200,
) -> list[str]:
    """Return the texts that nanoGPT prints: it seeds, makes a model (drawing weights) and then loads the weights."""
    chars = "\nabcdefghijklmnop"
    torch.manual_seed(seed)
    GPT(model.config)
    ids = torch.tensor([[chars.index(char) for char in prompt]])
    texts = [model.eval().generate(ids, new, temperature, top_k)[0].tolist() for _ in range(count)]
    return ["".join(chars[i] for i in text) for text in texts] + [""]


def test_samples_are_those_of_direct_generation(
    checkpoint: dict[str, Any], tiny_model: GPT, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = printed([*CPU, "--start=abc"], capsys)

    assert texts == generated(tiny_model, "abc")
    assert texts[0] != texts[1] and texts[0].startswith("abc")


def test_every_option_affects_the_generation(
    checkpoint: dict[str, Any], tiny_model: GPT, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--seed=3", "--temperature=2.5", "--top_k=4", "--num_samples=3", "--max_new_tokens=20"]

    expected = generated(tiny_model, "\n", seed=3, count=3, new=20, temperature=2.5, top_k=4)
    assert printed(["--device=cpu", *flags], capsys) == expected
    for change in ("--seed=4", "--temperature=1.0", "--top_k=None"):
        assert printed(["--device=cpu", *flags, change], capsys) != expected, change


FOREIGN = r"out/ckpt\.pt has no manifest \(nanoGPT's, .*\): loaded after a check of its own\n"
FOREIGN += r"model: out/ckpt\.pt, iteration 5, val 2\.50\n"


def test_stdout_has_nanogpts_lines(
    checkpoint: dict[str, Any], tiny_model: GPT, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    sample.main([*CPU, "--start=a"])

    out, err = capsys.readouterr()
    first, second, _ = generated(tiny_model, "a")
    assert out == (
        "Overriding: device = cpu\nOverriding: num_samples = 2\nOverriding: max_new_tokens = 12\n"
        "Overriding: start = a\n"
        "number of parameters: 0.03M\nLoading meta from data/tiny/meta.pkl...\n"
        f"{first}\n---------------\n{second}\n---------------\n"
    )
    assert re.fullmatch(FOREIGN, err)


def test_a_prompt_can_be_read_from_a_file(
    checkpoint: dict[str, Any], tiny_model: GPT, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("prompt.txt").write_text("deaf\n", encoding="utf-8")

    assert printed([*CPU, "--start=FILE:prompt.txt"], capsys) == generated(tiny_model, "deaf\n")


def test_a_prompt_file_may_be_at_home_and_have_a_byte_order_mark(
    checkpoint: dict[str, Any], tiny_model: GPT, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(Path.cwd()))
    Path("prompt.txt").write_bytes("\ufeffdeaf\n".encode())
    assert printed([*CPU, "--start=FILE:~/prompt.txt"], capsys) == generated(tiny_model, "deaf\n")


def test_the_file_of_a_checkpoint_can_be_given_in_place_of_its_folder(
    checkpoint: dict[str, Any], tiny_model: GPT, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out/ckpt.pt").rename("mine.pt")
    assert printed([*CPU, "--out_dir=mine.pt", "--start=deaf"], capsys) == generated(tiny_model, "deaf")


def test_temperature_0_prints_the_same_text_for_every_seed(
    checkpoint: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    greedy = printed([*CPU, "--start=deaf", "--temperature=0", "--seed=1"], capsys)
    assert greedy == printed([*CPU, "--start=deaf", "--top_k=1", "--seed=2"], capsys)


def test_a_prompt_can_be_longer_than_the_block(
    checkpoint: dict[str, Any], tiny_model: GPT, capsys: pytest.CaptureFixture[str]
) -> None:
    assert printed([*CPU, f"--start={'abcde' * 8}"], capsys) == generated(tiny_model, "abcde" * 8)


def test_a_checkpoint_of_a_compiled_model_can_be_sampled_from(
    checkpoint: dict[str, Any], tiny_model: GPT, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint["model"] = {f"_orig_mod.{name}": tensor for name, tensor in checkpoint["model"].items()}
    save(checkpoint)

    assert printed([*CPU, "--start=abc"], capsys) == generated(tiny_model, "abc")


def test_the_architecture_is_read_from_the_checkpoint(
    checkpoint: dict[str, Any], tiny_model: GPT, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"attention_type": "bidirectional", "position_encoding": "rotary"}
    checkpoint["model"].pop("transformer.wpe.weight")
    checkpoint["model_args"].update(changes)
    save(checkpoint)

    for name, value in changes.items():
        setattr(tiny_model.config, name, value)
    other = GPT(tiny_model.config)
    other.load_state_dict(checkpoint["model"])
    assert printed([*CPU, "--start=abc"], capsys) == generated(other, "abc")


def test_sampling_writes_nothing(checkpoint: dict[str, Any]) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}

    sample.main([*CPU, "--start=abc"])

    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before


def test_ids_beyond_the_vocabulary_are_shown_as_unknown(
    checkpoint: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """With a padded vocabulary, a model has more ids than the data set has characters."""
    meta = {"vocab_size": 17, "itos": {0: "\n", 1: "a"}, "stoi": {"\n": 0, "a": 1}}
    Path("data/tiny/meta.pkl").write_bytes(pickle.dumps(meta))

    assert set("".join(printed([*CPU, "--start=a"], capsys))) - {"\n"} == {"a", "\ufffd"}


@pytest.mark.parametrize("known", [{"dataset": "gone"}, {}, None])
def test_without_meta_the_tokens_are_gpt2s(
    checkpoint: dict[str, Any], known: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another tokenizer is used here, because GPT-2's vocabulary may have to be downloaded."""

    class Numbers:
        def encode(self, text: str) -> list[int]:
            return [len(text)]

        def decode(self, ids: list[int]) -> str:
            return " ".join(map(str, ids))

    checkpoint.pop("config")
    save(checkpoint if known is None else {**checkpoint, "config": known})
    monkeypatch.setattr(wiring.sampling, "Gpt2Tokenizer", Numbers)
    monkeypatch.setattr(wiring.sampling, "GPT2_TOKENS", 17)
    capsys.readouterr()

    sample.main([*CPU, "--start=abcd"])

    out = capsys.readouterr().out
    assert "No meta.pkl found, assuming GPT-2 encodings...\n4 " in out
    assert len(out.split("encodings...\n")[1].split("\n")[0].split(" ")) == 13


# run folders of coreGPT


@pytest.fixture
def models(checkpoint: dict[str, Any], tiny_model: GPT) -> dict[str, GPT]:
    """Save a run in out/ whose best checkpoint, `linked` as ckpt.pt, is not its `newest`; return both models."""
    Path("out/ckpt.pt").unlink()
    checkpoints = CheckpointManager("out")
    models = {}
    for name in ("linked", "newest"):
        model = GPT(tiny_model.config)
        weights = {key: tensor * 5 for key, tensor in model.state_dict().items()}
        model.load_state_dict(weights)
        notes = {"iter_num": 6, "val_loss": 1.5 if name == "linked" else None, "healthy": True}
        checkpoints.save(
            lambda path, weights=weights: torch.save({**checkpoint, "model": weights}, path),
            notes,
            link=name == "linked",
        )
        models[name] = model
    return models


def test_of_several_checkpoints_ckpt_pt_is_used(models: dict[str, GPT], capsys: pytest.CaptureFixture[str]) -> None:
    texts = printed([*CPU, "--start=abc"], capsys)

    assert texts == generated(models["linked"], "abc") != generated(models["newest"], "abc")


@pytest.mark.parametrize(
    ("which", "name"),
    [
        ("linked", "linked"),
        ("newest", "newest"),
        ("ckpt-000002.pt", "newest"),
        ("out/ckpt-000002.pt", "newest"),
        ("best", "linked"),
    ],
)
def test_another_checkpoint_can_be_chosen(
    models: dict[str, GPT], capsys: pytest.CaptureFixture[str], which: str, name: str
) -> None:
    assert printed([*CPU, "--start=abc", f"--checkpoint={which}"], capsys) == generated(models[name], "abc")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"best_val_loss": (2.5, 1)}, ", iteration 5 of 71"),
        ({"best_val_loss": torch.empty(0)}, ", iteration 5 of 71"),
        ({"iter_num": {"a": 1}}, ", val 2.50"),
        ({"iter_num": math.nan}, ", val 2.50"),
        ({"config": {"dataset": "tiny", "max_iters": 10**400}}, ", iteration 5, val 2.50"),
    ],
)
def test_a_progress_that_is_no_number_is_not_named(
    checkpoint: dict[str, Any], wrong: dict[str, Any], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save({**checkpoint, "config": {"dataset": "tiny", "max_iters": 70}, **wrong})
    sample.main([*CPU, "--start=abc"])

    assert capsys.readouterr().err.endswith(f"\nmodel: out/ckpt.pt{words}\n")


def test_the_model_that_is_used_is_named_on_stderr(
    checkpoint: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    save({**checkpoint, "config": {"dataset": "tiny", "max_iters": 70}})
    capsys.readouterr()
    sample.main([*CPU, "--start=abc"])

    assert capsys.readouterr().err.endswith("\nmodel: out/ckpt.pt, iteration 5 of 71, val 2.50\n")


@pytest.mark.parametrize(
    "damage",
    [
        lambda: os.truncate("out/ckpt.pt", 1000),
        lambda: Path("out/ckpt.pt").write_bytes(b""),
        lambda: Path("out/ckpt.pt").unlink() or Path("out/ckpt.pt").write_bytes(b"nonsense"),
        lambda: Path("out/ckpt.pt").unlink() or Path("out/ckpt.pt").symlink_to("gone.pt"),
    ],
)
def test_a_damaged_ckpt_pt_is_replaced_by_the_newest_good_checkpoint(
    models: dict[str, GPT], capsys: pytest.CaptureFixture[str], damage: Any
) -> None:
    damage()

    sample.main([*CPU, "--start=abc"])

    out, err = capsys.readouterr()
    assert out.split("meta.pkl...\n")[1].split("\n---------------\n") == generated(models["newest"], "abc")
    fault = r"out: .*ckpt\.pt\b.*; ckpt-000002\.pt is used instead\n"
    assert re.fullmatch(fault + r"model: out/ckpt-000002\.pt, iteration 5\n", err)


def test_a_ckpt_pt_that_links_to_another_checkpoint_is_that_one(
    models: dict[str, GPT], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out/ckpt.pt").unlink()
    Path("out/ckpt.pt").symlink_to("ckpt-000002.pt")

    assert printed([*CPU, "--start=abc"], capsys) == generated(models["newest"], "abc")


def test_sampling_does_not_change_a_damaged_folder(models: dict[str, GPT]) -> None:
    os.truncate("out/ckpt.pt", 1000)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in Path().rglob("*")}

    sample.main([*CPU, "--start=abc"])

    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in Path().rglob("*")} == before


def test_a_folder_without_a_good_checkpoint_is_refused(models: dict[str, GPT]) -> None:
    for path in Path("out").glob("*.pt"):
        os.truncate(path, 1000)

    with pytest.raises(CheckpointError, match=r"no good checkpoint in out: ckpt-00000\d\.pt has 1000 bytes"):
        sample.main(CPU)


# other kinds of models

TINY = dict(n_layer=1, n_head=2, n_embd=16, block_size=16, bias=False, attention_type="bidirectional")
MODES = {
    "unmasking": {},
    "token_classification": {"mode": "token_classifier"},
    "sequence_scoring": {"mode": "sequence_scorer", "cls_token_id": 22},
}


def trained(training_type: str, folder: str, size: int = 32, **config: Any) -> GPT:
    """Save a model of a training type, with 17 characters and 15 more ids, in a new folder; return the model."""
    shape = {**TINY, "vocab_size": size, **MODES[training_type]}
    model = GPT(GPTConfig(**shape)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(1 if name.endswith("slope") else 6)  # new weights predict almost uniformly
    content = {
        "model": model.state_dict(),
        "model_args": {**shape, "dropout": 0.0},
        "config": {"dataset": "tiny", "training_type": training_type, **config},
    }
    Path(folder).mkdir()
    torch.save(content, f"{folder}/ckpt.pt")
    return model


CHARACTERS = "\nabcdefghijklmnop"


def encode(text: str) -> list[int]:
    return [17 if char == "_" else CHARACTERS.index(char) for char in text]


def unmasked(model: GPT, start: str, count: int, candidates: int = 1, seed: int = 1337, **more: Any) -> list[list[str]]:
    """Return the candidates of each text from a sampler with the same seed."""
    shares = more.pop("shares", masked_shares("linear", 50))
    options = {"temperature": 0.8, "top_k": 200, "generator": torch.Generator().manual_seed(seed), **more}
    sampler = UnmaskSampler(model, 17, 17, shares, **options)
    texts = []
    for _ in range(count):
        *_, last = sampler.states(torch.tensor(encode(start)), candidates)
        texts.append(["".join(CHARACTERS[i] for i in row) for row in last.tolist()])
    return texts


@pytest.fixture
def unmasking(run_dir: Path) -> GPT:
    return trained("unmasking", "out")


def test_an_unmasking_model_fills_masks(unmasking: GPT, capsys: pytest.CaptureFixture[str]) -> None:
    texts = printed([*CPU, "--start=abc"], capsys)

    assert texts == [text for (text,) in unmasked(unmasking, "abc" + "_" * 12, 2)] + [""]
    assert texts[0] != texts[1] and texts[0].startswith("abc")


def test_without_a_prompt_all_tokens_start_as_masks(unmasking: GPT, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(CPU, capsys) == [text for (text,) in unmasked(unmasking, "_" * 12, 2)] + [""]


def test_masks_in_the_prompt_are_filled(unmasking: GPT, capsys: pytest.CaptureFixture[str]) -> None:
    texts = printed([*CPU, "--start=a__d_f", "--mask_char=_"], capsys)

    assert texts == [text for (text,) in unmasked(unmasking, "a__d_f", 2)] + [""]
    assert all(re.fullmatch(r"a..d.f", text, re.DOTALL) for text in texts[:2])


@pytest.mark.parametrize(
    ("flags", "more"),
    [
        (["--seed=5"], {"seed": 5}),
        (["--temperature=2.5"], {"temperature": 2.5}),
        (["--top_k=2"], {"top_k": 2}),
        (["--top_p=0.3"], {"top_p": 0.3}),
        (["--order=confidence"], {"order": "confidence"}),
        (["--remask=True"], {"remask": True}),
        (["--steps=3"], {"shares": masked_shares("linear", 3)}),
        (["--diffusion_iterations=3", "--schedule=cosine"], {"shares": masked_shares("cosine", 3)}),
        (["--schedule_type=custom", "--masking_ratios=[0.9, 0.1, 0.0]"], {"shares": [0.9, 0.1, 0.0]}),
    ],
)
def test_every_option_affects_the_unmasking(
    unmasking: GPT, capsys: pytest.CaptureFixture[str], flags: list[str], more: dict[str, Any]
) -> None:
    expected = [text for (text,) in unmasked(unmasking, "_" * 12, 2, **more)]

    assert printed([*CPU, *flags], capsys) == [*expected, ""]
    assert expected != [text for (text,) in unmasked(unmasking, "_" * 12, 2)]


def test_at_most_block_size_tokens_are_written(unmasking: GPT, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, note in (
        ([], ""),
        (["--max_new_tokens=13"], ""),
        (["--max_new_tokens=14"], "block_size=16 has room for 13 new tokens, not 14"),
    ):
        sample.main(["--device=cpu", "--num_samples=1", "--start=abc", *flags])
        shown = capsys.readouterr()
        notes = [line for line in shown.err.splitlines() if "ckpt.pt" not in line]
        assert "---------------" in shown.out and notes == [note] * bool(note)
    first, _ = printed(["--device=cpu", "--num_samples=1", "--start=abc"], capsys)
    assert len(first) == 16


def test_the_steps_can_be_written_to_a_file(unmasking: GPT, capsys: pytest.CaptureFixture[str]) -> None:
    (text,) = unmasked(unmasking, "a____", 1, shares=masked_shares("linear", 2))[0]

    lines, _ = printed(["--device=cpu", "--num_samples=1", "--steps=2", "--start=a____", "--mask_char=_",
                        "--show_steps=True"], capsys)  # fmt: skip

    assert lines.startswith("step 0, 4 masked\na████\nstep 1, 2 masked\na")
    assert lines.endswith(f"\nstep 2, 0 masked\n{text}\n{text}")


@pytest.mark.parametrize("noted", [{"mask_token_id": 20}, {"meta": {"text_vocab_size": 17, "mask_token_id": 20}}])
def test_the_mask_token_is_read_from_the_checkpoint(
    run_dir: Path, capsys: pytest.CaptureFixture[str], noted: dict[str, Any]
) -> None:
    model = trained("unmasking", "out", **noted)
    sampler = UnmaskSampler(model, 17, 20, masked_shares("linear", 50), generator=torch.Generator().manual_seed(1337),
                            temperature=0.8, top_k=200)  # fmt: skip
    *_, last = sampler.states(torch.full((12,), 20))

    assert printed(CPU, capsys)[0] == "".join(CHARACTERS[i] for i in last[0].tolist())


def test_the_vocabulary_of_a_queue_is_used(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the meta.pkl of a queue, vocab_size includes the special tokens, and they have names."""
    model = trained("unmasking", "out", size=20)
    stoi = {**{char: i for i, char in enumerate(CHARACTERS)}, "[MASK]": 17, "[PAD]": 18, "[CLS]": 19}
    meta = {"vocab_size": 20, "stoi": stoi, "itos": {i: token for token, i in stoi.items()}}
    meta |= {"mask_token_id": 17, "pad_token_id": 18, "cls_token_id": 19}
    Path("data/tiny/meta.pkl").write_bytes(pickle.dumps(meta))

    assert printed(CPU, capsys) == [text for (text,) in unmasked(model, "_" * 12, 2)] + [""]


def test_the_judge_chooses_the_candidate_with_the_lowest_score(
    unmasking: GPT, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = trained("sequence_scoring", "judge")
    expected = ""
    for candidates in unmasked(unmasking, "_" * 12, 2, candidates=3):
        with torch.no_grad():
            scores = [judge(torch.tensor([[22, *encode(text)]]))[0].item() for text in candidates]
        lowest = min(scores)
        sorted_scores = ", ".join(f"{score:.4f}" for score in sorted(scores))
        expected += f"{candidates[scores.index(lowest)]}\njudge: {lowest:.4f}, of {sorted_scores}\n---------------\n"
        assert max(scores) - lowest > 1e-3, "all candidates have the same score"

    capsys.readouterr()
    sample.main([*CPU, "--judge=judge", "--judge_candidates=3"])

    assert capsys.readouterr().out.endswith("0.00M\n" + expected)


def test_a_judge_with_a_short_block_size_is_refused(unmasking: GPT, capsys: pytest.CaptureFixture[str]) -> None:
    trained("sequence_scoring", "judge")
    content = torch.load("judge/ckpt.pt", weights_only=True)
    content["model_args"]["block_size"] = 14
    content["model"]["transformer.wpe.weight"] = content["model"]["transformer.wpe.weight"][:14].clone()
    torch.save(content, "short.pt")

    with pytest.raises(CheckpointError, match="vocab_size=32 and block_size=14, wanted 32 and at least 15"):
        sample.main([*CPU, "--start=abc", "--judge=short.pt"])  # 3 and 12 tokens
    sample.main([*CPU, "--start=abc", "--judge=short.pt", "--max_new_tokens=11"])


def test_a_classifier_labels_the_prompt(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = trained("token_classification", "out")
    with torch.no_grad():
        shares = model(torch.tensor([encode("abcdef")]))[0][0].softmax(dim=-1).tolist()

    (table,) = printed(["--device=cpu", "--start=abcdef", "--show_probabilities=True"], capsys)

    expected = [[str(int(one > zero)), repr(char), f"{zero:.4f}", f"{one:.4f}"]
                for char, (zero, one) in zip("abcdef", shares, strict=True)]  # fmt: skip
    assert [line.split() for line in table.splitlines()] == expected
    (short,) = printed(["--device=cpu", "--start=abcdef"], capsys)
    assert [line.split() for line in short.splitlines()] == [row[:2] for row in expected]

    Path("old.txt").write_text("abcdep", encoding="utf-8")
    *_, last = printed(["--device=cpu", "--start=abcdef", "--original=FILE:old.txt"], capsys)[0].splitlines()
    assert re.fullmatch(r"accuracy 0\.\d{4}: [01] of 1 replaced tokens found, \d others taken for replaced", last)


def test_a_scorer_scores_the_prompt_or_each_line(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = trained("sequence_scoring", "out")
    Path("lines.txt").write_text("abc\n\nponm\nabc\n", encoding="utf-8")
    with torch.no_grad():
        scores = {text: f"{model(torch.tensor([[22, *encode(text)]]))[0].item():.4f}" for text in ("abc", "ponm")}

    assert printed(["--device=cpu", "--start=abc"], capsys) == [f"{scores['abc']}  abc\n"]
    expected = "".join(f"{scores[text]}  {text}\n" for text in ("abc", "ponm", "abc"))
    assert printed(["--device=cpu", "--start=FILE:lines.txt"], capsys) == [expected]
    assert scores["abc"] != scores["ponm"]


@pytest.mark.parametrize(
    ("kind", "flags", "error", "message"),
    [
        ("unmasking", ["--start=abcabcabcabcabca"], ConfigError, r"--start has 16 tokens, .*=16 leaves no place"),
        ("unmasking", ["--start=aX_", "--mask_char=_"], DataError, r"lack 'X': "),
        ("unmasking", ["--judge=none"], CheckpointError, r"none"),
        ("unmasking", ["--judge=out"], CheckpointError, r"is a language_model, wanted a sequence_scorer"),
        ("unmasking", ["--judge=small"], CheckpointError, r"small.* has vocab_size=24 .*wanted 32"),
        ("unmasking", ["--judge_candidates=3"], ConfigError, r"judge_candidates=3 needs a judge: set judge"),
        ("unmasking", ["--masking_ratios=[0.5, 1.5]"], ConfigError, r"masking_ratios=.*each between 0 and 1"),
        ("unmasking", ["--masking_ratios=[]"], ConfigError, r"masking_ratios=.*at least one"),
        ("unmasking", ["--top_p=0"], ConfigError, r"top_p: got '0', wanted float > 0 and <= 1"),
        ("unmasking", ["--show_probabilities=True"], ConfigError, r"show_probabilities: .*token_classifier, and this"),
        ("token_classification", ["--start=abc", "--steps=3"], ConfigError, r"steps: .* kind unmasking, and this one"),
        ("token_classification", [], ConfigError, r"--start is empty: give a text"),
        ("token_classification", [f"--start={'abc' * 6}"], ConfigError, r"has 18 tokens, and the model takes 16"),
        (
            "token_classification",
            ["--start=abc", "--original=ab"],
            ConfigError,
            r"original has 2 tokens and the text 3",
        ),
        ("token_classification", ["--start=a", "--original=FILE:no"], ConfigError, r"--original=FILE:no: .*cannot be"),
        ("sequence_scoring", [], ConfigError, r"--start is empty"),
        ("sequence_scoring", ["--start=FILE:empty.txt"], ConfigError, r"--start is empty"),
        ("sequence_scoring", ["--start=FILE:long.txt"], ConfigError, r"long\.txt line 3 has 16 tokens, .* takes 15"),
    ],
)
def test_wrong_options_and_prompts_of_other_model_kinds_are_refused(
    run_dir: Path, kind: str, flags: list[str], error: type[Exception], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    trained(kind, "out")
    trained("sequence_scoring", "small", size=24)
    Path("empty.txt").write_text("\n", encoding="utf-8")
    Path("long.txt").write_text("abc\n\nabcabcabcabcabca\n", encoding="utf-8")
    capsys.readouterr()

    with pytest.raises(error, match=message):
        sample.main([*CPU, *flags])

    assert "---" not in capsys.readouterr().out  # the error comes before the first text


def test_options_of_other_kinds_are_refused_by_a_language_model(checkpoint: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"remask, top_p: for checkpoints of the kind unmasking, .*language_model"):
        sample.main([*CPU, "--remask=True", "--top_p=0.9"])


def test_a_data_set_with_another_vocabulary_is_refused(unmasking: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    meta = {"vocab_size": 40, "stoi": {chr(i): i for i in range(40)}, "itos": {i: chr(i) for i in range(40)}}
    Path("data/tiny/meta.pkl").write_bytes(pickle.dumps(meta))

    with pytest.raises(DataError, match=r"token 40 is none of the model's 32: .* another vocabulary"):
        sample.main(CPU)


# a chat


def chatted(text: str, flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what `sample.py --interactive=True` prints to these lines of stdin: (stdout, stderr)."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    capsys.readouterr()
    sample.main(["--device=cpu", "--max_new_tokens=12", "--interactive=True", *flags])
    return capsys.readouterr()


def test_the_first_reply_is_what_is_sampled_for_the_same_prompt(
    checkpoint: dict[str, Any], tiny_model: GPT, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for flags, more in (([], {}), (["--seed=3", "--temperature=2", "--top_k=4"], dict(seed=3, temperature=2, top_k=4))):
        out, err = chatted("abc\n", flags, capsys, monkeypatch)

        assert "abc" + out == generated(tiny_model, "abc", count=1, **more)[0] + "\n"
        assert err.startswith("Overriding: device = cpu\n") and "\nLoading meta from data/tiny/meta.pkl...\n" in err


def test_later_replies_continue_the_conversation(
    checkpoint: dict[str, Any], tiny_model: GPT, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = chatted("aXc\nbc\nde\n/reset\nde\n", ["--temperature=0", "--start=a"], capsys, monkeypatch)

    first = generated(tiny_model, "abc", count=1, temperature=0)[0]
    joint = "" if first.endswith("\n") else "\n"
    second = generated(tiny_model, f"{first}{joint}de", count=1, temperature=0)[0][len(f"{first}{joint}de") :]
    third = generated(tiny_model, "ade", count=1, temperature=0)[0]
    assert out == f"{first[3:]}\n{second}\n{third[3:]}\n"
    assert err.endswith("\nthe data set's 17 characters lack 'X': remove them from the text, or prepare the data set "
                        "again from a text that has them\n")  # fmt: skip


def test_other_models_answer_each_line_as_a_prompt(
    unmasking: GPT, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained("sequence_scoring", "scorer")
    trained("token_classification", "labels")
    flags = ["--num_samples=1", "--device=cpu"]

    out, err = chatted("a__d\nabc\n", ["--mask_char=_", "--judge=scorer"], capsys, monkeypatch)
    first, _ = printed([*flags, "--judge=scorer", "--mask_char=_", "--start=a__d"], capsys)
    assert out.splitlines()[-2:] == first.splitlines()[-2:] and out.count("judge: ") == 1
    assert err.endswith("\nthe line has no '_' (mask_char): put one where a mask is to be filled\n")

    out, _ = chatted("abc\n\nd\n", ["--out_dir=scorer"], capsys, monkeypatch)
    scores = [printed([*flags, "--out_dir=scorer", f"--start={text}"], capsys)[0] for text in ("abc", "d")]
    assert out == f"{scores[0]}\n{scores[1]}"
    out, err = chatted(f"abc\n{'abc' * 6}\n", ["--out_dir=labels"], capsys, monkeypatch)
    assert out == printed([*flags, "--out_dir=labels", "--start=abc"], capsys)[0]
    assert err.endswith("\nthe line has 18 tokens, and the model takes 16 at most: shorten it\n")


@pytest.mark.parametrize(
    ("out_dir", "flags", "message"),
    [
        ("out", ["--num_samples=2"], r"^num_samples=2: interactive=True answers each line once: remove num_samples"),
        ("labels", ["--start=abc"], r"^start is the beginning of a chat .*, and this model is of the kind token_class"),
        ("out", ["--start=aX"], r"17 characters lack 'X'"),
    ],
)
def test_options_that_do_not_fit_a_chat_are_refused(
    checkpoint: dict[str, Any], out_dir: str, flags: list[str], message: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    trained("token_classification", "labels")
    with pytest.raises((ConfigError, DataError), match=message):
        chatted("abc\n", [f"--out_dir={out_dir}", *flags], capsys, monkeypatch)


# errors


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        (
            ["--start=abXYZab"],
            DataError,
            r"17 characters lack 'X', 'Y', 'Z': remove them from the text, or prepare the data set",
        ),
        (["--start=zyxwvutsr"], DataError, r"lack 'r', 's', 't', 'u', 'v' and 4 more: "),
        (["--start="], ConfigError, r"--start is empty: give the model at least one character"),
        (["--start=FILE:empty.txt"], ConfigError, r"--start is empty"),
        (["--start=FILE:none.txt"], ConfigError, r"--start=FILE:none\.txt: the prompt cannot be read \(.*No such file"),
        (["--start=FILE:latin.txt"], ConfigError, r"--start=FILE:latin\.txt: the prompt cannot be read \(.*utf-8"),
        (["--start=FILE:data"], ConfigError, r"--start=FILE:data: the prompt cannot be read"),
        (["--out_dir=none"], CheckpointError, r"no checkpoint at none/ckpt\.pt: set out_dir"),
        (["--init_from=gpt3"], ConfigError, r"init_from='gpt3' is not known: wanted .*gpt2-xl"),
        (
            ["--checkpoint=Best"],
            CheckpointError,
            r"checkpoint=Best: there is no such file in out, wanted linked, newest",
        ),
        (["--temperature=-1"], ConfigError, r"temperature: got '-1', wanted float >= 0"),
        (["--top_k=-1"], ConfigError, r"top_k: got '-1', wanted int or None >= 0"),
        (["--num_sample=3"], ConfigError, r"unknown option 'num_sample', did you mean 'num_samples'\?"),
        (["--batch_sise=3"], ConfigError, r"unknown option 'batch_sise'"),
    ],
)
def test_wrong_options_and_prompts_are_refused(
    checkpoint: dict[str, Any], flags: list[str], error: type[Exception], message: str
) -> None:
    Path("empty.txt").touch()
    Path("latin.txt").write_bytes("Käse".encode("latin-1"))

    with pytest.raises(error, match=message):
        sample.main([*CPU, *flags])


def test_a_config_of_a_run_that_starts_or_goes_on_can_be_sampled_with(
    checkpoint: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.py").write_text("init_from = 'auto'\nn_layer = 2\n")
    assert printed([*CPU, "--start=abc", "mine.py"], capsys) == printed([*CPU, "--start=abc"], capsys)


def test_scratch_is_not_offered_for_sampling(checkpoint: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        sample.main([*CPU, "--init_from=scratch"])

    assert "add --init_from=resume for the model in out_dir" in str(caught.value)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"vocab_size": 17}, "names no tokenizer and has no table of text tokens"),
        ({"vocab_size": 17, "tokenizer": "words"}, "names the tokenizer 'words'"),
        ([], "holds a list, wanted a dict"),
    ],
)
def test_a_meta_without_a_tokenizer_is_refused(checkpoint: dict[str, Any], meta: Any, message: str) -> None:
    Path("data/tiny/meta.pkl").write_bytes(pickle.dumps(meta))

    with pytest.raises(DataError, match=message):
        sample.main(CPU)


def test_a_truncated_checkpoint_is_refused(checkpoint: dict[str, Any]) -> None:
    content = Path("out/ckpt.pt").read_bytes()
    Path("out/ckpt.pt").write_bytes(content[: len(content) // 2])

    with pytest.raises(CheckpointError, match=r"cannot read out/ckpt\.pt: it is truncated, damaged"):
        sample.main(CPU)


def test_the_program_ends_with_status_2_and_one_message(checkpoint: dict[str, Any]) -> None:
    command = [sys.executable, ROOT / "sample.py", *CPU, "--start=aXb"]

    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "error"})

    assert done.returncode == 2
    assert re.match(FOREIGN + "error: the data set's 17 characters lack 'X': ", done.stderr)
    assert done.stderr.count("\n") == 3
    assert "Traceback" not in done.stdout + done.stderr


# the tokens that travel in a checkpoint


def test_a_run_is_sampled_without_its_data_set_from_another_folder(
    run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train.main([*tiny_argv, "--max_iters=2"])
    first = printed([*CPU, "--start=abc"], capsys)
    shutil.rmtree("data")
    (run_dir / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    sample.main([*CPU, "--start=abc", "--out_dir=../out"])

    assert capsys.readouterr().out.split("M\n")[1].split("\n---------------\n") == first


def test_a_data_set_prepared_again_does_not_change_what_a_run_says(
    run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    train.main([*tiny_argv, "--max_iters=2"])
    first = printed([*CPU, "--start=abc"], capsys)
    upper = dict(enumerate("\nABCDEFGHIJKLMNOP"))
    write_meta("data/tiny/meta.pkl", {"vocab_size": 17, "itos": upper, "stoi": {c: i for i, c in upper.items()}})
    sample.main([*CPU, "--start=abc"])
    out, err = capsys.readouterr()

    assert out.split("M\n")[1].split("\n---------------\n") == first
    assert (
        "data/tiny/meta.pkl has other tokens than the model (id 1 is 'a' there and 'A' here, 15 more ids differ)" in err
    )
    with pytest.raises(DataError, match=r"the checkpoint has learnt other tokens \(id 1 is 'a' there and 'A' here"):
        train.main([*tiny_argv, "--init_from=resume"])


def test_a_run_is_evaluated_without_its_meta_pkl(
    run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for training in ("language_model", "unmasking"):
        argv = [*tiny_argv, f"--training_type={training}", f"--out_dir={training}", "--max_iters=2"]
        train.main(argv)
        loss = train.main([*argv, "--init_from=resume", "--eval_only=True", "--resume_rng=reseed"])
        meta = Path("data/tiny/meta.pkl").rename("meta.pkl")
        assert train.main([*argv, "--init_from=resume", "--eval_only=True", "--resume_rng=reseed"]) == loss
        meta.rename("data/tiny/meta.pkl")


def test_the_default_start_of_a_vocabulary_of_words_is_one_of_its_words(
    checkpoint: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"word{number}" for number in range(17)]
    write_meta("data/tiny/meta.pkl", {"vocab_size": 17, "stoi": {word: n for n, word in enumerate(words)}})

    texts = printed(CPU, capsys)

    assert len(texts) == 3 and texts[0].startswith("word0 word") and len(texts[0].split()) == 13
    with pytest.raises(ConfigError, match="--start is empty"):
        sample.main([*CPU, "--start="])


def test_a_prompt_of_ids_beyond_the_model_is_refused(checkpoint: dict[str, Any]) -> None:
    chars = "\nabcdefghijklmnopXYZ"
    write_meta("data/tiny/meta.pkl", {"vocab_size": 20, "stoi": {char: n for n, char in enumerate(chars)}})

    with pytest.raises(DataError, match=r"token 19 is none of the model's 17: "):
        sample.main([*CPU, "--start=aZ"])
