"""Tokenizers of other packages: the ids that their users know, and clear errors without the packages."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core.errors import DataError
from data.package_tokenizers import SentencePieceTokenizer, TiktokenTokenizer


def test_r50k_base_has_gpt2s_ids() -> None:
    """Its own files need not be in the cache."""
    try:
        tokenizer = TiktokenTokenizer("r50k_base")
    except DataError as error:
        pytest.skip(str(error))

    assert tokenizer.encode("Hello world<|endoftext|>") == [15496, 995, 50256]
    assert tokenizer.encode_ordinary("Hello<|") == [15496, 27, 91]
    assert tokenizer.decode([15496, 50300, -1, 995]) == "Hello\ufffd\ufffd world"
    assert tokenizer.meta() == {"vocab_size": 50257, "tokenizer": "tiktoken", "tiktoken_encoding": "r50k_base"}


def test_an_encoding_of_a_users_own() -> None:
    pytest.importorskip("tiktoken")
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256}
    own = dict(name="own", pat_str="[a-z]+|.", mergeable_ranks=ranks, special_tokens={"<|end|>": 300})

    tokenizer = TiktokenTokenizer(own)

    assert tokenizer.encode("abc<|end|>") == [256, 99, 300]
    assert tokenizer.decode([256, 280, 99]) == "ab\ufffdc"  # no token has id 280
    with pytest.raises(DataError, match=r"holds a damaged tiktoken\.Encoding .*: write stoi"):
        TiktokenTokenizer({"name": "own"})


@pytest.mark.parametrize("name", ["", "cl1000"])
def test_an_unknown_encoding_gets_the_list(name: str) -> None:
    pytest.importorskip("tiktoken")
    with pytest.raises(DataError, match=f"the tiktoken encoding {name!r}, wanted one of gpt2, .*cl100k_base"):
        TiktokenTokenizer(name)


@pytest.mark.parametrize("encoding", ["cl100k_base", {"name": "own"}])
def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, encoding: Any) -> None:
    for package in ("tiktoken", "sentencepiece"):
        monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(DataError, match="pip install tiktoken$"):
        TiktokenTokenizer(encoding)
    with pytest.raises(DataError, match="pip install sentencepiece$"):
        SentencePieceTokenizer(b"model")


class Processor:
    """A stand-in for sentencepiece's class: one id for each character of its model."""

    def __init__(self, model_file: str = "", model_proto: bytes = b"") -> None:
        self.characters = Path(model_file).read_text() if model_file else model_proto.decode()
        if not self.characters:
            raise RuntimeError("Internal: could not parse ModelProto\nat line 1")

    def get_piece_size(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> list[int]:
        return [self.characters.index(character) for character in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(self.characters[number] for number in ids)


def test_sentencepiece_from_a_file_or_its_content(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", SimpleNamespace(SentencePieceProcessor=Processor))
    path = tmp_path / "m.model"
    path.write_text("abc")

    for model in (str(path), b"abc"):
        tokenizer = SentencePieceTokenizer(model)
        assert tokenizer.vocab_size == 3 and tokenizer.encode("cab") == [2, 0, 1]
        assert tokenizer.decode([2, 7, 8, 0, -1]) == "c\ufffd\ufffda\ufffd"
        assert tokenizer.meta() == {"vocab_size": 3, "tokenizer": "sentencepiece", "model_file": model}

    path.write_text("")
    with pytest.raises(DataError, match=r"m\.model is no SentencePiece model \(Internal: could not parse ModelProto\)"):
        SentencePieceTokenizer(str(path))
    with pytest.raises(DataError, match=r"no file at gone\.model, the SentencePiece model that meta\.pkl names"):
        SentencePieceTokenizer("gone.model")
