"""tools.export: a run folder becomes a folder of transformers."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

import coregpt
import train
from core.errors import CheckpointError, ConfigError
from tools.export import export, main


def test_a_run_is_exported_with_its_characters(
    run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    train.main(tiny_argv)
    capsys.readouterr()
    main(["out"])
    assert (
        capsys.readouterr().out
        == "number of parameters: 0.03M\nLoading meta from data/tiny/meta.pkl...\nwrote out/hf\n"
    )

    ours = coregpt.load("out", device="cpu")
    theirs, tokenizer = AutoModelForCausalLM.from_pretrained("out/hf"), AutoTokenizer.from_pretrained("out/hf")
    text = "abcdefgh"  # of fewer than four tokens the product with a transposed matrix is rounded in another way
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert ids[0].tolist() == ours.tokenizer.encode(text)
    assert torch.equal(theirs(ids).logits, ours.model(ids, ids)[0])
    written = theirs.generate(ids, max_new_tokens=8, do_sample=False)
    assert tokenizer.decode(written[0]) == text + ours.generate(text, 8, temperature=0.0)


def test_a_file_and_another_folder_can_be_chosen(run_dir: Path, tiny_argv: list[str]) -> None:
    train.main(tiny_argv)
    assert export(Path("out"), Path("mine"), "best") == Path("mine")
    assert export(Path("out/ckpt.pt")) == Path("out/hf")
    export(Path("out"), Path("mine"))  # replaces the earlier export


def test_what_cannot_be_exported_is_one_message(run_dir: Path, tiny_argv: list[str]) -> None:
    with pytest.raises(CheckpointError, match="^no checkpoint at gone/ckpt.pt"):
        export(Path("gone"))
    train.main([*tiny_argv, "--max_iters=1", "--eval_interval=1", "--position_encoding=rotary"])
    with pytest.raises(ConfigError, match="^the model has position_encoding=rotary"):
        export(Path("out"))
    Path("full").mkdir()
    Path("full/config.json").write_text("of another model")
    with pytest.raises(ConfigError, match="^--out=full holds other files: choose a new folder"):
        export(Path("out"), Path("full"))
    with pytest.raises(ConfigError, match="^--out=full/config.json is a file: choose a new folder"):
        export(Path("out"), Path("full/config.json"))
    assert [path.name for path in Path("full").iterdir()] == ["config.json"] and not Path("out/hf").exists()


def test_an_earlier_export_is_replaced_as_a_whole(run_dir: Path, tiny_argv: list[str]) -> None:
    train.main(tiny_argv)
    folder = export(Path("out"))
    (folder / "model.safetensors.index.json").touch()
    export(Path("out"))

    assert not (folder / "model.safetensors.index.json").exists() and (folder / "model.safetensors").exists()
    assert [path.name for path in Path("out").glob(".*")] == [".lock"]


def test_the_pages_pipeline_runs(run_dir: Path, tiny_argv: list[str]) -> None:
    """Also with the pipeline's own length, which is beyond the positions of a small model."""
    train.main(tiny_argv)
    writer = pipeline("text-generation", str(export(Path("out"))))

    assert writer("abc", max_new_tokens=5)[0]["generated_text"].startswith("abc")
    assert 3 < len(writer("abc")[0]["generated_text"]) <= 16


def test_a_model_of_hugging_face_is_written_as_it_is(place: Path) -> None:
    """With its generation config, its chat template and the length that its tokenizer names; also without one."""
    tokenizer = AutoTokenizer.from_pretrained("llama")
    tokenizer.chat_template, tokenizer.model_max_length = "{{ messages[0].content }}", 77
    tokenizer.save_pretrained("llama")
    model = AutoModelForCausalLM.from_pretrained("llama")
    model.generation_config.update(temperature=0.6, do_sample=True, eos_token_id=[0, 5])
    model.save_pretrained("llama")
    for file in Path("gpt2").glob("token*"):
        file.unlink()
    argv = ["--dataset=words", "--device=cpu", "--compile=False", "--block_size=16", "--batch_size=2", "--eval_iters=1"]
    for name in ("llama", "gpt2"):
        train.main([f"--init_from=hf:{name}", *argv, "--max_iters=1", "--eval_interval=1", f"--out_dir=out-{name}"])
        export(Path(f"out-{name}"))

    for name in ("config.json", "generation_config.json"):
        theirs, ours = (json.loads(Path(folder, name).read_text()) for folder in ("llama", "out-llama/hf"))
        assert ours == theirs
    again = AutoTokenizer.from_pretrained("out-llama/hf")
    assert again.chat_template == tokenizer.chat_template and again.model_max_length == 77
    assert not list(Path("out-gpt2/hf").glob("token*"))
    assert coregpt.load("out-gpt2", device="cpu").tokenizer is None
