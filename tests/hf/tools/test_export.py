"""tools.export: a run folder becomes a folder of transformers."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

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
    Path("full/thesis.tex").touch()
    with pytest.raises(ConfigError, match="^--out=full holds other files: choose a new folder"):
        export(Path("out"), Path("full"))
    assert [path.name for path in Path("full").iterdir()] == ["thesis.tex"] and not Path("out/hf").exists()
