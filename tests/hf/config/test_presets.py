"""Every preset for fine-tuning, run for two updates on a tiny model and its tiny data set."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

import train
from core.checkpoint.find import find_latest_checkpoint
from core.checkpoint.format import load_values
from tests.config.test_foreign_systems import VISION_FILE

ROOT = Path(__file__).parents[3]
SMALL = ["--device=cpu", "--dtype=float32", "--compile=False", "--max_iters=1", "--eval_iters=1", "--out_dir=out"]
SMALL += ["--wandb_log=False", "--batch_size=2", "--attention=sdpa", "--block_size=32"]


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / "datasets" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["finetune_t5", "finetune_t5_lora", "fast_iteration"])
def test_presets_of_recipes_train_a_tiny_t5(place: Path, name: str) -> None:
    rows = [{"input": row["input"][:20], "output": row["output"][:10], **row} for row in example("recipes").recipes(80)]
    (place / "recipes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lengths = ["--max_input_length=32", "--max_target_length=32", "--tokenizer=gpt2"]
    train.main([str(ROOT / "config" / f"{name}.yaml"), "--init_from=hf:t5", *lengths, *SMALL])
    checkpoint = load_values(find_latest_checkpoint("out"))

    assert checkpoint["iter_num"] == 2 and ("adapter" in checkpoint["model_args"]) is (name == "finetune_t5_lora")


@pytest.mark.parametrize("names", [["base_chem"], ["finetune_chem_gpt2"]])
def test_presets_of_chemistry_train_a_tiny_gpt2(place: Path, names: list[str]) -> None:
    texts = [{"text": f"the king {number} speaks to me of love and war"} for number in range(30)]
    (place / "chem.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    files = [str(ROOT / "config" / f"{name}.yaml") for name in names]
    train.main([*files, "--init_from=hf:gpt2", "--dataset=chem.jsonl", *SMALL])

    assert load_values(find_latest_checkpoint("out"))["iter_num"] == 2 and (place / "out" / "final_model").is_dir()


def test_the_recipes_file_is_a_data_set_of_its_own(place: Path) -> None:
    file = ROOT / "examples" / "datasets" / "recipes.py"
    more = ["--init_from=hf:t5", "--tokenizer=gpt2", "--prompt_column=input", "--response_column=output"]
    train.main([f"--dataset_file={file}", *more, "--max_input_length=32", "--max_target_length=32", *SMALL])
    assert load_values(find_latest_checkpoint("out"))["iter_num"] == 2


def test_pictures_have_one_image_and_turns() -> None:
    made = example("pictures").get_custom_dataset(None, None, "train", 0.8)
    assert len(made) == 320 and {len(row["images"]) for row in made} == {1}
    assert {tuple(turn) for row in made for turn in row["texts"]} == {("user", "assistant")}
    assert len(example("pictures").get_custom_dataset(None, None, "test", 0.8)) == 80


@pytest.mark.parametrize("name", ["finetune_llama_vision", "finetune_llama_vision_test"])
def test_presets_of_pictures_train_a_tiny_mllama(studio: Path, name: str) -> None:
    longer = [*SMALL, "--block_size=256", "--use_subset=True", "--subset_size=8"]
    train.main([str(ROOT / "config" / f"{name}.yaml"), "--init_from=hf:mllama", *longer])
    checkpoint = load_values(find_latest_checkpoint("out"))

    assert checkpoint["iter_num"] == 2 and "adapter" in checkpoint["model_args"]
    assert checkpoint["tokenizer"]["processor"].keys() >= {"processor_config.json", "chat_template.jinja"}


def test_a_file_of_the_vision_pipeline_trains_job_after_job(studio: Path) -> None:
    """Each job makes its epochs over 10 rows; the next one resumes."""
    (studio / "datasets").mkdir()
    (studio / "mine.py").rename(studio / "datasets" / "pictures.py")
    (studio / "vision.yaml").write_text(VISION_FILE.replace("org/llama-vision", str(studio / "mllama")))
    here = ["--device=cpu", "--dtype=float32", "--compile=False", "--wandb_log=False", "--block_size=64"]
    here += ["--batch_size=4", "--epochs_per_job=1", "--eval_iters=1"]
    for job, more in ((1, []), (2, ["--init_from=resume"])):
        train.main(["vision.yaml", *here, *more])
        assert load_values(find_latest_checkpoint("tuned/mine"))["iter_num"] == 2 * job

    written = json.loads((studio / "tuned" / "mine" / "final_model" / "adapter_config.json").read_text())
    assert written["r"] == 8 and sorted(written["target_modules"]) == ["q_proj", "v_proj"]
