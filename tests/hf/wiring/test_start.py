"""Runs that go on from a checkpoint of the C line: weights, step, the next update, and what stays in its folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

import coregpt
import sample
import train
from core.checkpoint.find import find_latest_checkpoint
from core.checkpoint.format import load_checkpoint
from core.errors import CheckpointError, ConfigError
from extras.hugging_face.model import HuggingFaceModel
from tests.hf.c_line_runs import save, trained
from tests.hf.test_rows import write_rows
from tools.merge_lora import merge_lora
from tools.run_hash import run_hash

ARGV = ["--device=cpu", "--compile=False", "--dtype=float32", "--block_size=32", "--batch_size=3", "--eval_iters=1"]
ARGV += ["--gradient_accumulation_steps=1", "--warmup_iters=0", "--learning_rate=3e-3", "--lr_schedule=constant"]
ARGV += ["--eval_interval=100", "--log_interval=3", "--dropout=0.0", "--dataset=rows.jsonl"]
SAMPLE = ["--device=cpu", "--num_samples=1", "--max_new_tokens=8", "--start=the king", "--temperature=0.01"]
RESUME = "--init_from=resume"
pytestmark = [pytest.mark.filterwarnings("ignore::FutureWarning"), pytest.mark.filterwarnings("ignore::UserWarning")]


class Recorder(coregpt.Callback):
    """Keeps the batches of a run, and its model and learning rate as they are at the start."""

    def __init__(self) -> None:
        self.batches: list[dict[str, torch.Tensor]] = []
        self.first: dict[str, torch.Tensor] = {}
        self.began = -1

    def on_train_begin(self, trainer: Any) -> None:
        objective, self.began = trainer.step.objective, trainer.iter_num
        self.first = {name: tensor.clone() for name, tensor in trainer.raw_model.state_dict().items()}

        def recorded(model: Any, batch: Any, train: bool) -> Any:
            self.batches += [batch] if train else []
            return objective(model, batch, train)

        trainer.step.objective = recorded


def run(*argv: str, callbacks: Any = ()) -> None:
    train.main([*ARGV, *argv], callbacks)


def seq2seq(folder: str = "t5", dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(1)
    return AutoModelForSeq2SeqLM.from_pretrained(folder, dropout_rate=0.0).to(dtype)


@pytest.fixture
def c_line(place: Path) -> Callable[..., Any]:
    """Return a function that trains a model and saves it at some steps, as the C line does; its result goes on."""
    write_rows(place / "rows.jsonl")
    tokenizer = AutoTokenizer.from_pretrained("gpt2")

    def make(model: Any, *steps: int) -> tuple[Any, Any]:
        optimizer, schedule = trained(model, 6)
        for step in steps:
            save(Path("theirs"), model, tokenizer, step, optimizer, schedule)
        return model, optimizer

    return make


def next_update(model: Any, optimizer: Any, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Make the update that the C line makes, at the learning rate of ARGV. Return the weights."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    labels = batch["labels"]
    if model.config.is_encoder_decoder:
        logits, targets = model(**inputs, labels=labels).logits, labels
    else:
        logits, targets = model(**inputs).logits[:, :-1], labels[:, 1:]
    F.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = 3e-3
    optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize("kind", ["t5", "gpt2", "lora"])
def test_the_next_update_is_that_of_the_c_line(c_line: Any, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    model = seq2seq() if kind != "gpt2" else AutoModelForCausalLM.from_pretrained("gpt2")
    if kind == "lora":
        settings = peft.LoraConfig(r=2, target_modules=["q", "v"], lora_dropout=0.0, task_type="SEQ_2_SEQ_LM")
        model = peft.get_peft_model(model, settings)
    for part in model.modules():
        part.p = 0.0 if isinstance(part, torch.nn.Dropout) else getattr(part, "p", None)
    model, optimizer = c_line(model, 500)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ours = Recorder()
    run(RESUME, "--out_dir=theirs", "--max_iters=500", callbacks=[ours])

    assert ours.began == 500 and len(ours.batches) == 1
    prefix = "base_model.model." if kind == "lora" else ""
    assert len(ours.first) == len(before)
    for name, tensor in before.items():
        assert torch.equal(ours.first["transformer." + name.removeprefix(prefix)], tensor)
    after = next_update(model, optimizer, ours.batches[0])
    found = find_latest_checkpoint("theirs")
    assert found.name == "checkpoint-501"
    saved = load_checkpoint(found)["model"]
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    for name, tensor in after.items():
        if name in moved or kind != "lora":
            assert torch.allclose(saved["transformer." + name.removeprefix(prefix)], tensor, atol=2e-6, rtol=0)
    assert len(moved) == (12 if kind == "lora" else len(after))
    assert any("theirs/checkpoint-500 is of the C line: AdamW's moments, betas" in line for line in caplog.messages)
    assert any("no random state; weights, optimizer and counters are exact" in line for line in caplog.messages)


def test_bfloat16_weights_and_moments_go_on_in_float32(c_line: Any) -> None:
    model, _ = c_line(seq2seq(dtype=torch.bfloat16), 7)
    ours = Recorder()
    run(RESUME, "--out_dir=theirs", "--max_iters=6", "--ckpt_filename=checkpoint-7", callbacks=[ours])

    for name, tensor in model.state_dict().items():
        assert torch.equal(ours.first[f"transformer.{name}"], tensor.float())
    checkpoint = load_checkpoint(find_latest_checkpoint("theirs"))
    assert {state["exp_avg"].dtype for state in checkpoint["optimizer"]["state"].values()} == {torch.float32}
    assert {state["step"].item() for state in checkpoint["optimizer"]["state"].values()} == {7}


def test_an_interrupted_run_goes_on_from_its_own_checkpoints(c_line: Any) -> None:
    c_line(seq2seq(), 500)
    shutil.copytree("theirs", "whole")
    kept = {file: file.read_bytes() for file in Path("theirs").rglob("*") if file.is_file()}
    run(RESUME, "--out_dir=whole", "--max_iters=509")
    run(RESUME, "--out_dir=theirs", "--max_iters=503", "--keep_last=1")
    run(RESUME, "--out_dir=theirs", "--max_iters=506", "--keep_last=1")
    run(RESUME, "--out_dir=theirs", "--max_iters=509", "--keep_last=1")

    assert run_hash("theirs") == run_hash("whole")
    assert {file: file.read_bytes() for file in kept} == kept
    assert {path.name for path in Path("theirs").glob("checkpoint-*")} >= {"checkpoint-500", "checkpoint-510"}


def test_folders_of_the_c_line_are_never_overwritten_or_moved(c_line: Any) -> None:
    """Not by a checkpoint of the same iteration, not by the final model, and not by a run that begins anew."""
    c_line(seq2seq(), 500, 501)
    shutil.copytree("theirs/checkpoint-501", "theirs/final_model")
    shutil.copy("theirs/checkpoint-501/config.json", "theirs/config.json")
    kept = {file: file.read_bytes() for file in Path("theirs").rglob("*") if file.is_file()}
    run(RESUME, "--ckpt_filename=checkpoint-500", "--out_dir=theirs", "--max_iters=500")
    assert find_latest_checkpoint("theirs").name == "checkpoint-501-2"
    run("--init_from=hf:theirs/checkpoint-501", "--out_dir=theirs", "--max_iters=1", "--keep_last=1")

    assert {file: file.read_bytes() for file in kept} == kept
    assert Path("theirs/previous-1/checkpoint-501-2").is_dir() and Path("theirs/checkpoint-2").is_dir()


def test_the_highest_step_counts_unless_a_run_of_ours_has_saved_there(
    c_line: Any, caplog: pytest.LogCaptureFixture
) -> None:
    c_line(seq2seq(), 90, 500, 1000)
    Path("theirs/checkpoint-1000/training_state.pt").unlink()
    first, second, third, fourth = Recorder(), Recorder(), Recorder(), Recorder()
    run(RESUME, "--out_dir=theirs", "--eval_only=True", callbacks=[first])
    assert any("theirs/checkpoint-1000 has no training_state.pt: its save was cut" in line for line in caplog.messages)
    run("--init_from=auto", "--out_dir=theirs", "--eval_only=True", callbacks=[second])
    run(RESUME, "--ckpt_filename=checkpoint-90", "--out_dir=theirs", "--max_iters=91", callbacks=[third])
    run(RESUME, "--out_dir=theirs", "--max_iters=92", callbacks=[fourth])

    assert [one.began for one in (first, second, third, fourth)] == [500, 500, 90, 92]


def test_the_weights_alone_begin_a_run(c_line: Any) -> None:
    model, _ = c_line(seq2seq(), 500)
    ours = Recorder()
    run("--init_from=hf:theirs/checkpoint-500", "--out_dir=ours", "--max_iters=1", callbacks=[ours])

    assert ours.began == 0 and all(
        torch.equal(ours.first[f"transformer.{name}"], tensor) for name, tensor in model.state_dict().items()
    )
    assert {
        state["step"].item() for state in load_checkpoint(Path("ours/checkpoint-2"))["optimizer"]["state"].values()
    } == {2}


def test_moments_that_do_not_fit_begin_at_zero(c_line: Any, caplog: pytest.LogCaptureFixture) -> None:
    c_line(seq2seq(), 500)
    path = Path("theirs/checkpoint-500/training_state.pt")
    saved = torch.load(path, weights_only=False)
    for change, words in (
        (lambda state: state["param_groups"][0]["params"].pop(), "do not fit (ValueError: zip()"),
        (lambda state: state["state"][1].update(exp_avg=torch.zeros(3)), "a tensor of shape (3,), not"),
        (lambda state: state.pop("param_groups"), "do not fit (KeyError"),
        (lambda state: state.clear(), "the checkpoint lacks optimizer (its moments start at zero)"),
    ):
        shutil.rmtree("copy", ignore_errors=True)
        shutil.copytree("theirs", "copy")
        damaged = torch.load(path, weights_only=False)
        change(damaged["optimizer_state_dict"])
        torch.save(damaged, "copy/checkpoint-500/training_state.pt")
        caplog.clear()
        run(RESUME, "--out_dir=copy", "--max_iters=500")
        assert any(words in line for line in caplog.messages)
        state = load_checkpoint(Path("copy/checkpoint-501"))["optimizer"]["state"]
        assert {one["step"].item() for one in state.values()} == {1}
    assert saved["optimizer_state_dict"]["state"][1]["step"] == 6


def test_frozen_parts_stay_frozen(c_line: Any) -> None:
    model, _ = c_line(seq2seq(), 500)
    run(RESUME, "--out_dir=theirs", "--max_iters=501", "--trainable=decoder")
    saved = load_checkpoint(find_latest_checkpoint("theirs"))

    for name, tensor in model.state_dict().items():
        is_same = torch.equal(saved["model"][f"transformer.{name}"], tensor)
        assert is_same == (not name.startswith("decoder") or "embed_tokens" in name)
    assert {state["step"].item() for state in saved["optimizer"]["state"].values()} == {8}


def test_a_model_from_python_gets_the_weights(c_line: Any) -> None:
    model, _ = c_line(AutoModelForCausalLM.from_pretrained("gpt2"), 500)
    given, ours = HuggingFaceModel(AutoModelForCausalLM.from_pretrained("gpt2")), Recorder()
    words = [*ARGV[:-1], "--dataset=words", RESUME, "--out_dir=theirs", "--max_iters=500"]
    coregpt.train(words, model=given, callbacks=[ours])

    assert ours.began == 500
    for name, tensor in model.state_dict().items():
        assert torch.equal(ours.first[f"transformer.{name}"], tensor)


def test_answers_come_from_a_folder_of_the_c_line(c_line: Any, capsys: pytest.CaptureFixture[str]) -> None:
    model, _ = c_line(AutoModelForCausalLM.from_pretrained("gpt2"), 80, 500)
    other = AutoModelForCausalLM.from_pretrained("gpt2")
    other.save_pretrained("theirs/checkpoint-80")
    tokenizer = AutoTokenizer.from_pretrained("gpt2")
    ids = tokenizer("the king", return_tensors="pt").input_ids

    def answers(model: Any, *argv: str) -> bool:
        capsys.readouterr()
        sample.main([*SAMPLE, "--temperature=0", *argv])
        wanted = model.eval().generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=None)
        return tokenizer.decode(wanted[0]) in capsys.readouterr().out

    for argv in (["theirs"], ["theirs/checkpoint-500"], ["theirs", "--checkpoint=checkpoint-500"]):
        assert answers(model, f"--out_dir={argv[0]}", *argv[1:])
    assert answers(other, "--out_dir=theirs", "--checkpoint=checkpoint-80")
    run(RESUME, "--out_dir=theirs", "--max_iters=520", "--learning_rate=0.1")
    assert not answers(model, "--out_dir=theirs", "--checkpoint=newest")


def test_an_adapter_of_the_c_line_is_merged(c_line: Any) -> None:
    settings = peft.LoraConfig(r=2, target_modules=["q", "v"], lora_dropout=0.0, task_type="SEQ_2_SEQ_LM")
    model, _ = c_line(peft.get_peft_model(seq2seq(), settings), 500)
    merged = AutoModelForSeq2SeqLM.from_pretrained(merge_lora(Path("theirs"), Path("merged")))
    ids = torch.arange(1, 9)[None]

    theirs = model.eval()(input_ids=ids, labels=ids).logits
    assert torch.allclose(merged.eval()(input_ids=ids, labels=ids).logits, theirs, atol=1e-5)


def test_what_cannot_be_read_is_refused(c_line: Any) -> None:
    c_line(seq2seq(), 500)
    path = Path("theirs/checkpoint-500/training_state.pt")
    good = path.read_bytes()
    path.write_bytes(good[:-5000])
    with pytest.raises(
        CheckpointError, match=r"training_state.pt is damaged, or .*: take an earlier one with ckpt_fil"
    ):
        run(RESUME, "--out_dir=theirs")
    torch.save({"global_step": "many"}, path)
    with pytest.raises(CheckpointError, match="has global_step='many', wanted a number of updates: take an earlier"):
        run(RESUME, "--out_dir=theirs")
    path.unlink()
    with pytest.raises(CheckpointError, match="checkpoint-500 is a model without a state of training: begin with its"):
        run(RESUME, "--out_dir=theirs", "--ckpt_filename=checkpoint-500")
    with pytest.raises(CheckpointError, match="theirs: theirs/checkpoint-500 is of another trainer: begin with its"):
        run(RESUME, "--out_dir=theirs")
    path.write_bytes(good)
    with pytest.raises(ConfigError, match="use_lora=True, but the checkpoint is of a run that trains all weights"):
        run(RESUME, "--out_dir=theirs", "--use_lora=True")


def test_peft_weights_of_the_e_line_are_taken(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder of peft below the checkpoint folder, as llama-recipes saves it: without a tokenizer."""
    write_rows(place / "rows.jsonl")
    torch.manual_seed(1)
    settings = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    theirs = peft.get_peft_model(AutoModelForCausalLM.from_pretrained("llama"), settings)
    folder = Path("finetuned_model/fine-tuned/peft_weights")
    theirs.save_pretrained(folder)
    ours = Recorder()
    run(f"--init_from=hf:{folder}", "--out_dir=out", "--max_iters=2", callbacks=[ours])
    state = theirs.state_dict()
    name = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.default.weight"
    assert torch.equal(ours.first["transformer." + name.removeprefix("base_model.model.")], state[name])

    capsys.readouterr()
    ids = AutoTokenizer.from_pretrained("llama")("the king", return_tensors="pt").input_ids
    wanted = theirs.eval().generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=None)
    for argv in ([f"--init_from=hf:{folder}"], [f"--out_dir={folder}"]):
        sample.main([*SAMPLE, "--temperature=0", *argv])
        assert AutoTokenizer.from_pretrained("llama").decode(wanted[0]) in capsys.readouterr().out

    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "meta-llama/Llama-3.2-11B-Vision-Instruct"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    message = (
        r"^finetuned_model/fine-tuned/peft_weights holds an adapter, whose base cannot be loaded: init_from=hf:meta-"
        r"llama/.* cannot be had from the hub .*, and name it in .*weights/adapter_config.json, as base_model_name_or"
    )
    with pytest.raises(ConfigError, match=message):
        run(f"--init_from=hf:{folder}", "--out_dir=none", "--max_iters=2")
    with pytest.raises(ConfigError, match=message):
        sample.main([*SAMPLE, f"--out_dir={folder}"])
