"""The tokenizer of a model's folder, kept in checkpoints."""

from pathlib import Path

import pytest
from tokenizers import processors
from transformers import AutoTokenizer

from data.package_tokenizers import HuggingFaceTokenizer
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


def test_trimmed_offsets_hide_no_token_across_a_seam(made: Path) -> None:
    """GPT-NeoX's post-processor takes the space of ` yes` out of its characters."""
    tokenizer = AutoTokenizer.from_pretrained(made / "gpt2").backend_tokenizer
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    spans = HuggingFaceTokenizer(tokenizer.to_str()).spans("the king speaks")

    assert [first for _, first, _ in spans[1:]] == [last for _, _, last in spans[:-1]] and spans[-1][2] == 15


def test_prompts_begin_with_the_start_token_and_texts_are_shown_without(made: Path) -> None:
    """As the tokenizers of Llama have it; a corpus gets none."""
    tokenizer = AutoTokenizer.from_pretrained(made / "gpt2").backend_tokenizer
    end = "<|endoftext|>"
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{end} $A", special_tokens=[(end, 0)])
    ours = HuggingFaceTokenizer(tokenizer.to_str())

    ids = ours.encode("the king")
    assert ids == [0, *ours.encode_ordinary("the king")] == tokenizer.encode("the king").ids
    assert ours.decode(ids) == "the king" and ours.encode("<|endoftext|>the king") == ids
