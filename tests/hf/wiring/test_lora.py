"""Runs with LoRA: exact resume, small checkpoints, folders that peft and transformers load, what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

import sample
import train
from config.options import Options
from core.checkpoint.find import find_latest_checkpoint
from core.checkpoint.format import load_checkpoint
from core.errors import CheckpointError, ConfigError
from tests.hf.conftest import make_gpt2
from tools.merge_lora import merge_lora
from tools.run_hash import run_hash

ARGV = ["--dataset=words", "--device=cpu", "--compile=False", "--dtype=float32", "--block_size=16", "--batch_size=4"]
ARGV += ["--gradient_accumulation_steps=1", "--eval_iters=2", "--warmup_iters=0", "--learning_rate=1e-2"]
ARGV += ["--lr_schedule=constant", "--eval_interval=3", "--log_interval=3"]
LORA = ["--use_lora=True", "--lora_r=4", "--lora_dropout=0.1"]
SAMPLE = ["--device=cpu", "--num_samples=1", "--max_new_tokens=8", "--start=the king", "--temperature=0.01"]
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def run(*argv: str, callbacks: Any = ()) -> None:
    train.main([*ARGV, *argv], callbacks)


def sampled(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    sample.main([*SAMPLE, *argv])
    return capsys.readouterr().out.split("---------------")[0].split("\n", 5 + len(argv))[-1]


def base_run(place: Path) -> None:
    """Train a model of model.py on the words."""
    run("--n_layer=2", "--n_head=2", "--n_embd=32", "--max_iters=3", "--out_dir=base")


@pytest.mark.parametrize("kind", ["hf:gpt2", "hf:llama", "own"])
def test_an_interrupted_run_ends_on_the_same_bits(place: Path, kind: str) -> None:
    if kind == "own":
        base_run(place)
    start = [f"--init_from={kind}"] if kind != "own" else ["--init_from_checkpoint=base"]
    run(*start, *LORA, "--max_iters=10", "--out_dir=whole")
    run(*start, *LORA, "--max_iters=4", "--out_dir=parts")
    run("--init_from=resume", *LORA, "--out_dir=parts", "--max_iters=7")
    run("--init_from=resume", *LORA, "--out_dir=parts", "--max_iters=10")

    assert run_hash("parts") == run_hash("whole")


def test_checkpoints_hold_the_adapter_alone(place: Path) -> None:
    make_gpt2(n_embd=64, n_layer=4).save_pretrained("wide")
    AutoTokenizer.from_pretrained("gpt2").save_pretrained("wide")
    run("--init_from=hf:wide", *LORA, "--lora_r=1", "--max_iters=3", "--out_dir=out")
    folder = find_latest_checkpoint("out")

    assert folder.name == "checkpoint-4"
    names = {"adapter_config.json", "adapter_model.safetensors", "options.yaml", "training.pt"}
    assert {file.name for file in folder.iterdir()} >= {*names, "tokenizer.json"}
    size = sum(file.stat().st_size for file in folder.iterdir())
    weights = (folder / "adapter_model.safetensors").stat().st_size
    assert weights < 4 * (64 + 192) * 4 + 2000 and size < Path("wide/model.safetensors").stat().st_size / 4
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {
        (folder / "options.yaml").stat().st_mode & 0o777
    }
    saved = yaml.safe_load((folder / "options.yaml").read_text())
    assert saved["lora_r"] == 1 and saved["init_from"] == "hf:wide"
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("wide"), str(folder))
    assert theirs.peft_config["default"].base_model_name_or_path == "wide"


def test_training_leaves_the_base_as_it_is(place: Path) -> None:
    before = AutoModelForCausalLM.from_pretrained("gpt2").state_dict()
    seen: dict[str, torch.Tensor] = {}

    class Keep:
        def on_train_end(self, trainer: Any) -> None:
            seen.update(trainer.raw_model.state_dict())

    run("--init_from=hf:gpt2", *LORA, "--weight_decay=0.5", "--max_iters=5", callbacks=[Keep()])
    for name, tensor in before.items():
        own = next(
            seen[key]
            for key in (f"transformer.{name}", f"transformer.{name}".replace("c_attn.", "c_attn.base_layer."))
            if key in seen
        )
        assert torch.equal(own, tensor)


def test_a_run_goes_on_from_an_adapter_of_pefts(place: Path) -> None:
    torch.manual_seed(1)
    theirs = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained("gpt2"),
        peft.LoraConfig(r=3, target_modules=["c_fc"], fan_in_fan_out=True, init_lora_weights=False),
    )
    theirs.save_pretrained("peft_weights")
    first = theirs.state_dict()["base_model.model.transformer.h.0.mlp.c_fc.lora_B.default.weight"].clone()
    seen: list[torch.Tensor] = []

    class First:
        def on_step_begin(self, trainer: Any) -> None:
            state = trainer.raw_model.state_dict()
            seen.append(state["transformer.transformer.h.0.mlp.c_fc.lora_B.default.weight"].clone())

    run("--init_from=hf:peft_weights", "--max_iters=4", callbacks=[First()])
    run("--init_from=resume", "--max_iters=6")

    assert torch.equal(seen[0], first) and not torch.equal(seen[-1], first)
    config = json.loads((find_latest_checkpoint("out") / "adapter_config.json").read_text())
    assert config["r"] == 3 and config["target_modules"] == ["c_fc"]


def test_every_folder_is_sampled(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run folder, checkpoint, final model and merged model answer alike."""
    run("--init_from=hf:gpt2", *LORA, "--max_iters=6")
    merge_lora(Path("out"))
    newest = sampled(capsys, "--out_dir=out", "--checkpoint=newest")
    assert "the king" in newest
    for folder in ("out/checkpoint-7", "out/final_model", "out/merged"):
        assert (
            newest.splitlines()[-3:] == sampled(capsys, f"--out_dir={folder}", "--checkpoint=newest").splitlines()[-3:]
        )
    base = sampled(capsys, "--init_from=hf:gpt2", "--checkpoint=newest")
    assert base.splitlines()[-3:] != newest.splitlines()[-3:]


def test_an_own_models_folders_are_sampled(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base_run(place)
    shutil.copy("data/words/train.bin", "data/words/other.bin")
    AutoTokenizer.from_pretrained("gpt2")
    run("--init_from_checkpoint=base", *LORA, "--max_iters=6")
    merged = merge_lora(Path("out"))
    assert [file.name for file in sorted(merged.iterdir())] == ["ckpt.pt", "exported-by-coregpt.txt"]
    args = load_checkpoint(merged / "ckpt.pt")["model_args"]
    assert "adapter" not in args and args["n_layer"] == 2
    run(
        "--init_from_checkpoint=out/merged",
        "--n_layer=2",
        "--n_head=2",
        "--n_embd=32",
        "--max_iters=0",
        "--out_dir=next",
    )
    theirs = peft.PeftConfig.from_pretrained("out/final_model")
    assert theirs.auto_mapping == {"base_model_class": "GPT", "parent_library": "model"}


def test_the_best_checkpoint_becomes_the_final_model(place: Path) -> None:
    """A metric that is best in the middle decides."""

    def metrics(model: Any, split: str) -> dict[str, float]:
        metrics.calls += split == "val"  # type: ignore[attr-defined]
        return {"val/score": [1.0, 5.0, 2.0, 1.0][metrics.calls - 1]} if split == "val" else {}  # type: ignore[attr-defined]

    metrics.calls = 0  # type: ignore[attr-defined]
    import coregpt

    options = coregpt.options(*ARGV, "--init_from=hf:gpt2", *LORA, "--max_iters=9", "--best_metric=val/score")
    coregpt.train(options.replace(best_mode="max", final_model="best", keep_last=1), metrics=metrics)
    best = Path("out/checkpoint-3/adapter_model.safetensors").read_bytes()

    assert Path("out/final_model/adapter_model.safetensors").read_bytes() == best
    assert sorted(path.name for path in Path("out").glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-3"]


def test_full_training_ends_in_a_folder_for_transformers(place: Path) -> None:
    run("--init_from=hf:gpt2", "--max_iters=4")
    checkpoint = load_checkpoint(find_latest_checkpoint("out"))
    model, report = AutoModelForCausalLM.from_pretrained("out/final_model", output_loading_info=True)

    assert not report["missing_keys"] and model.lm_head.weight is model.transformer.wte.weight
    assert all(
        torch.equal(checkpoint["model"][f"transformer.{name}"], value) for name, value in model.state_dict().items()
    )
    assert not Path("out/final_model/training.pt").exists()
    text = pipeline("text-generation", "out/final_model")("the king", max_new_tokens=4)[0]["generated_text"]
    assert text.startswith("the king")
    for name in ("config.json", "generation_config.json"):  # only what had to change
        then, now = (json.loads(Path(folder, name).read_text()) for folder in ("gpt2", "out/final_model"))
        assert {key for key in then.keys() | now.keys() if then.get(key) != now.get(key)} <= {"transformers_version"}


def test_what_cannot_be_is_refused(place: Path) -> None:
    with pytest.raises(ConfigError, match="use_lora=True needs a trained model: set init_from=hf:NAME"):
        run(*LORA, "--n_layer=1", "--n_head=1", "--n_embd=8")
    with pytest.raises(ConfigError, match="use_lora=True freezes the model itself: remove freeze_transformer"):
        run("--init_from=hf:gpt2", *LORA, "--trainable=h.1")
    run("--init_from=hf:gpt2", "--max_iters=0", "--out_dir=full")
    with pytest.raises(ConfigError, match="the checkpoint is of a run that trains all weights: begin a new run"):
        run("--init_from=resume", *LORA, "--out_dir=full")
    run("--init_from=hf:gpt2", *LORA, "--max_iters=0")
    with pytest.raises(ConfigError, match="lora_r=8, but the adapter has 4: remove it"):
        run("--init_from=resume", "--use_lora=True", "--lora_r=8")
    with pytest.raises(ConfigError, match="out/hf.* holds an adapter|holds an adapter"):
        from tools.export import export

        export(Path("out"))
    with pytest.raises(ConfigError, match="full holds a complete model, and no adapter: there is nothing to merge"):
        merge_lora(Path("full"))
    make_gpt2(initializer_range=0.5).save_pretrained("gpt2")
    with pytest.raises(CheckpointError, match="the adapter was trained on other weights than hf:gpt2 has now"):
        run("--init_from=resume", "--max_iters=3")
    shutil.rmtree("gpt2")
    with pytest.raises(ConfigError, match="init_from=hf:gpt2 cannot be had from the hub"):
        run("--init_from=resume", "--max_iters=3")


def test_options_of_a_run_with_lora_load_again(place: Path) -> None:
    run("--init_from=hf:gpt2", *LORA, "--max_iters=0", "--lora_target_modules=['c_fc']")
    text = (
        Path("out/options.yaml")
        if Path("out/options.yaml").exists()
        else find_latest_checkpoint("out") / "options.yaml"
    )
    from configurator import configure

    assert configure(Options, [str(text)]).lora_target_modules == ["c_fc"]


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_a_quantized_base_resumes_and_merges_in_full_precision(place: Path, bits: str) -> None:
    start = ["--init_from=hf:llama", f"--quantization={bits}", *LORA]
    run(*start, "--max_iters=8", "--out_dir=whole")
    run(*start, "--max_iters=3", "--out_dir=parts")
    run("--init_from=resume", "--out_dir=parts", "--max_iters=8")
    assert run_hash("parts") == run_hash("whole")

    checkpoint = load_checkpoint(find_latest_checkpoint("whole"))
    assert {tensor.dtype for tensor in checkpoint["model"].values()} == {torch.float32}
    assert all(".lora_" in name for name in checkpoint["model"])
    merged = AutoModelForCausalLM.from_pretrained(merge_lora(Path("whole")))
    base = AutoModelForCausalLM.from_pretrained("llama")
    then, now = (model.model.layers[0].self_attn.o_proj.weight for model in (base, merged))
    assert torch.equal(then, now)  # no target, and not rounded
    assert not torch.equal(base.model.layers[0].self_attn.q_proj.weight, merged.model.layers[0].self_attn.q_proj.weight)


def test_quantized_weights_that_would_train_are_refused(place: Path) -> None:
    with pytest.raises(ConfigError, match="quantization=4bit: weights in 4 bits cannot train: set use_lora=True"):
        run("--init_from=hf:gpt2", "--quantization=4bit")
    with pytest.raises(ConfigError, match="quantization=4bit is for models of Hugging Face"):
        base_run(place)
        run("--init_from_checkpoint=base", "--quantization=4bit", *LORA)
    with pytest.raises(ConfigError, match="device_map=balanced: a model that trains is on one device, here device=cpu"):
        run("--init_from=hf:gpt2", "--device_map=balanced")
    run("--init_from=hf:gpt2", *LORA, "--max_iters=0", "--device_map=auto")
    with pytest.raises(ConfigError, match="quantization=4bit, but the adapter was trained with none: remove it"):
        run("--init_from=resume", "--quantization=4bit", "--max_iters=3")


@pytest.mark.parametrize("how", ["--quantization=4bit", "--quantization=8bit", "--device_map=auto"])
def test_sampling_with_less_memory_or_more_devices(place: Path, capsys: pytest.CaptureFixture[str], how: str) -> None:
    run("--init_from=hf:llama", *LORA, "--max_iters=1")
    for given in ("--out_dir=out", "--out_dir=out/final_model", "--init_from=hf:llama"):
        assert "the king" in sampled(capsys, given, "--checkpoint=newest", how)
