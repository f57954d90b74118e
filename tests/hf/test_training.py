"""Training a model of Hugging Face on token bins: the numbers of transformers' Trainer, exact resume, what is kept."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

import coregpt
import sample
import train
from core.checkpoint.find import find_latest_checkpoint
from core.checkpoint.format import load_checkpoint
from tests.hf.conftest import WORDS, make_gpt2
from tools.export import export
from tools.run_hash import run_hash

ARGV = ["--dataset=words", "--device=cpu", "--compile=False", "--dtype=float32", "--block_size=16", "--batch_size=4"]
ARGV += ["--gradient_accumulation_steps=2", "--eval_iters=2", "--warmup_iters=0", "--learning_rate=1e-2"]


def argv(model: str, *more: str) -> list[str]:
    return [f"--init_from=hf:{model}", *ARGV, *more]


class Recorder(coregpt.Callback):
    """Keeps the batches and the losses of a run."""

    def __init__(self) -> None:
        self.batches: list[torch.Tensor] = []
        self.losses: list[float] = []

    def on_train_begin(self, trainer: Any) -> None:
        get_batch = trainer.step.get_batch

        def recorded(split: str) -> Any:
            inputs, targets = get_batch(split)
            self.batches.append(torch.cat([inputs, targets[:, -1:]], dim=1))  # (B, T + 1)
            return inputs, targets

        trainer.step.get_batch = recorded

    def on_step_end(self, trainer: Any, result: Any) -> None:
        self.losses.append(result.mean_loss.item())


def test_losses_are_those_of_transformers_trainer(place: Path) -> None:
    """For 50 updates of two micro-batches each, on the batches that our run has drawn, in their order."""
    without_dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    make_gpt2(**without_dropout).save_pretrained("plain")
    ours = Recorder()
    settings = [
        "--max_iters=49",
        "--eval_interval=100",
        "--lr_schedule=constant",
        "--beta2=0.999",
        "--weight_decay=0.1",
    ]
    train.main(argv("plain", *settings), [ours])

    batches = torch.cat(ours.batches[:100])
    labels = batches.clone()
    labels[:, 0] = -100  # nothing predicts a first token, but the Trainer would divide by it, too
    rows = Dataset.from_dict({"input_ids": batches.tolist(), "labels": labels.tolist()})
    theirs: list[float] = []

    class Losses(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            theirs.extend([logs["loss"]] if "loss" in logs else [])

    class InOrder(Trainer):
        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return torch.utils.data.SequentialSampler(rows)

        def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            super().log(logs, *args, **kwargs)

    arguments = TrainingArguments(
        "theirs", per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=50, learning_rate=1e-2,
        lr_scheduler_type="constant", weight_decay=0.1, max_grad_norm=1.0, logging_steps=1, save_strategy="no",
        report_to=[], use_cpu=True, disable_tqdm=True, seed=1,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained("plain", dtype=torch.float32)
    InOrder(model, arguments, train_dataset=rows, callbacks=[Losses()]).train()

    assert len(ours.losses) == len(theirs) == 50 and ours.losses[-1] < ours.losses[0] - 0.5
    assert max(abs(a - b) for a, b in zip(ours.losses, theirs, strict=True)) <= 1e-5


@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_an_interrupted_run_ends_on_the_same_bits(place: Path, model: str) -> None:
    """With GPT-2's own dropout of 0.1, interrupted twice; the base is not needed for a resume."""
    settings = ["--eval_interval=3", "--log_interval=3", "--lr_schedule=constant"]
    train.main(argv(model, *settings, "--max_iters=12", "--out_dir=whole"))
    train.main(argv(model, *settings, "--max_iters=4", "--out_dir=parts"))
    (place / model).rename(place / "elsewhere")
    resume = ["--init_from=resume", *ARGV, *settings, "--out_dir=parts"]
    train.main([*resume, "--max_iters=8"])
    train.main([*resume, "--max_iters=12"])

    assert run_hash(Path("parts")) == run_hash(Path("whole"))


def test_weights_are_float32_also_of_a_base_in_bfloat16(place: Path) -> None:
    AutoModelForCausalLM.from_pretrained("gpt2", dtype=torch.bfloat16).save_pretrained("half")
    small = ["--learning_rate=1e-5", "--eval_interval=1", "--weight_decay=0.0", "--lr_schedule=constant"]
    before = AutoModelForCausalLM.from_pretrained("half", dtype=torch.float32).state_dict()
    train.main(argv("half", "--max_iters=2", *small))
    first = load_checkpoint(find_latest_checkpoint("out"))["model"]
    assert {tensor.dtype for tensor in first.values()} == {torch.float32}
    train.main(["--init_from=resume", *ARGV, *small, "--max_iters=4"])

    after = load_checkpoint(find_latest_checkpoint("out"))["model"]
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
    name = "transformer.h.0.mlp.c_fc.weight"
    moved = (after[f"transformer.{name}"] - before[name]).abs()
    assert moved.max() < 1e-4 and (moved > 0).float().mean() > 0.9  # in bfloat16 most would round away


def test_the_config_of_the_base_is_saved_as_it_was(place: Path) -> None:
    options = ["--activation_checkpointing=full", "--attention=manual", "--block_size=8", "--max_iters=1"]
    train.main(argv("llama", *options, "--eval_interval=1"))
    export(Path("out"))

    for name in ("config.json", "generation_config.json"):
        base, ours = (json.loads(Path(folder, name).read_text()) for folder in ("llama", "out/hf"))
        assert ours == base


def test_a_dropout_that_is_given_replaces_the_models_own(place: Path) -> None:
    run = coregpt.train(argv("gpt2", "--dropout=0.3", "--max_iters=1", "--eval_interval=1"))
    assert {part.p for part in run.model.modules() if isinstance(part, torch.nn.Dropout)} == {0.3}
    run = coregpt.train(argv("gpt2", "--max_iters=1", "--eval_interval=1", "--out_dir=other"))
    assert {part.p for part in run.model.modules() if isinstance(part, torch.nn.Dropout)} == {0.1}


def test_recomputed_activations_give_the_same_bits(place: Path) -> None:
    for name in ("none", "full"):
        options = [f"--activation_checkpointing={name}", f"--out_dir={name}", "--max_iters=3", "--eval_interval=2"]
        train.main(argv("gpt2", *options))
    saved = [load_checkpoint(find_latest_checkpoint(name))["model"] for name in ("none", "full")]

    run = coregpt.train(argv("gpt2", "--activation_checkpointing=full", "--max_iters=0", "--out_dir=other"))
    assert run.model.transformer.is_activation_checkpointing
    assert all(torch.equal(tensor, saved[1][name]) for name, tensor in saved[0].items())


def test_the_run_speaks_the_models_own_tokens(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train.main(argv("gpt2", "--max_iters=60", "--eval_interval=30", "--lr_schedule=constant"))
    err = capsys.readouterr().err
    assert "data/words/meta.pkl is not there, its ids are taken for those of hf:gpt2" in err
    assert re.search(r"model: gpt2, a GPT2LMHeadModel with [\d,]+ parameters in float32, attention: sdpa", err)

    for source in ("--out_dir=out", "--init_from=hf:gpt2"):
        sample.main([source, "--device=cpu", "--num_samples=1", "--max_new_tokens=20", "--start=the king"])
        assert "\nthe king" in capsys.readouterr().out
    trained = coregpt.load("out", device="cpu")
    written = trained.generate("the king", 12, temperature=0.0)
    assert set(written.split()) <= set(WORDS)

    theirs = AutoModelForCausalLM.from_pretrained(export(Path("out"))).eval()
    ids = torch.tensor([trained.tokenizer.encode("the king speaks")])
    assert torch.equal(theirs(ids).logits, trained.model(ids, ids)[0])


def test_two_ranks_train_the_same_weights(place: Path) -> None:
    from benchmark.soak.campaign import ranks

    one = argv("gpt2", "--max_iters=3", "--eval_interval=2", "--dropout=0.0", "--out_dir=out-two")
    assert ranks(lambda: train.main(one)) == [0, 0]  # type: ignore[arg-type,return-value]
    train.main([*one, "--out_dir=out-one"])
    first, second = (load_checkpoint(find_latest_checkpoint(name)) for name in ("out-one", "out-two"))
    assert len(second["ranks"]) == 2  # which draw other batches than one rank does
    moved = [(second["model"][name] - weight).abs().max().item() for name, weight in first["model"].items()]
    assert 0 < max(moved) < 0.1


def test_mistakes_are_one_message_each(place: Path) -> None:
    Path("empty").mkdir()
    (place / "cut").mkdir()
    for file in (place / "gpt2").iterdir():
        content = file.read_bytes()
        (place / "cut" / file.name).write_bytes(content[:2000] if file.suffix == ".safetensors" else content)
    for given, message in (
        (["--init_from=hf:t5"], "a T5ForConditionalGeneration has an encoder, which token bins have no inputs for"),
        (["--init_from=hf:empty"], "init_from=hf:empty: the folder has no config.json: give a folder that save_pret"),
        (["--init_from=hf:no/such"], "init_from=hf:no/such cannot be had from the hub"),
        (["--init_from=hf:cut"], "init_from=hf:cut cannot be loaded: "),
        (["--init_from=hf:gpt2", "--activation=gelu_tanh"], "init_from=hf:gpt2 has an architecture of its own: remove"),
        (["--init_from=hf:gpt2", "--training_type=unmasking"], "has an architecture of its own: remove attention_type"),
        (["--init_from=hf:gpt2", "--n_layer=3"], "init_from=hf:gpt2 has an architecture of its own: remove n_layer=3"),
        (["--init_from=hf:gpt2", "--block_size=64"], "block_size=64 is more than the 32 positions that the weights"),
        (["--init_from=hf:gpt2", "--freeze_transformer=True"], "leaves nothing to train"),
        (["--init_from=scratch", "--activation_checkpointing=full"], "activation_checkpointing=full is for models of"),
    ):
        with pytest.raises(coregpt.ConfigError, match=re.escape(message)):
            train.main([*ARGV, *given])
        assert not Path("out").exists()


def test_a_model_that_lacks_weights_is_refused(place: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file("gpt2/model.safetensors")
    del weights["transformer.h.1.mlp.c_fc.weight"]
    save_file(weights, "gpt2/model.safetensors", {"format": "pt"})

    with pytest.raises(coregpt.ConfigError, match="its weights lack transformer.h.1.mlp.c_fc.weight, which would be"):
        train.main(argv("gpt2", "--max_iters=0"))
