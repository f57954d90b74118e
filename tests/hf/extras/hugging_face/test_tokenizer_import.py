"""The tokenizer of a model's folder, kept in checkpoints."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from data.tokenizers import CharTokenizer, tokenizer_from_meta
from extras.hugging_face.tokenizer_export import to_hugging_face
from extras.hugging_face.tokenizer_import import PROBE, give_other_ids, tokenizer_meta


def test_the_ids_are_those_of_the_folders_tokenizer(made: Path, tmp_path: Path) -> None:
    meta = tokenizer_meta(str(made / "gpt2"))
    assert meta is not None and meta["special_tokens"]["eos_token"] == "<|endoftext|>"
    ours, theirs = tokenizer_from_meta(meta), AutoTokenizer.from_pretrained(made / "gpt2")

    for text in ("", "the king", PROBE, "\n\n é 漢字"):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
        assert ours.decode(ours.encode(text)) == text
    assert 0 in ours.encode("<|endoftext|>") and 0 not in ours.encode_ordinary("<|endoftext|>")

    to_hugging_face(ours, 32).save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.encode(PROBE) == theirs.encode(PROBE) and again.eos_token_id == theirs.eos_token_id == 0


def test_a_folder_without_a_tokenizer_has_none(made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert tokenizer_meta(str(made / "t5")) is None and caplog.messages == []
    (tmp_path / "tokenizer.json").write_text("{}")
    assert tokenizer_meta(str(tmp_path)) is None
    assert caplog.messages[-1].startswith(f"{tmp_path}: its tokenizer cannot be read (")


def test_tokenizers_are_compared_by_the_ids_that_they_give(made: Path) -> None:
    theirs = tokenizer_meta(str(made / "gpt2"))
    assert theirs is not None and not give_other_ids(theirs, dict(theirs))
    assert give_other_ids(theirs, CharTokenizer.from_text(PROBE).meta())
    assert give_other_ids(theirs, CharTokenizer.from_text("abc").meta())  # which lacks characters of the probe
