"""The exported tokenizers give the ids of ours, for any text, before and after they are written to a folder."""

import random
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from tiktoken_ext.openai_public import r50k_pat_str
from transformers import AutoTokenizer

from data.meta_contents import find_tables
from data.package_tokenizers import TiktokenTokenizer
from data.preparation.byte_pairs import Sample, train
from data.table_tokenizer import TableTokenizer
from data.tokenizers import ByteTokenizer, CharTokenizer, Gpt2Tokenizer, tokenizer_from_meta
from extras.hugging_face.tokenizer_export import to_hugging_face

PIECES = [" ", "  ", "\n", "\n\n", "\t", "\r\n", "the", " then", "The", "'s", "'ll", "é", "ß", "漢字", "🙂"]
PIECES += ["12", "1234", ",", "...", "_", " the", "\u00a0", "\u2028", "e\u0301", "<|end|>", "x$", "\x00"]
MERGED = [b"th", b"the", b" t", b" th", b" the", b"\n\n", b"  ", b"er", "é".encode(), b"12", b"...", b"\r\n", b"hen"]
OTHER_PATTERN = "|".join(
    [r"'(?i:[sdmt]|ll|ve)", r"[^\r\n\p{L}\p{N}]?+\p{L}++", r"\p{N}{1,3}+", r" ?[^\s\p{L}\p{N}]++[\r\n]*+"]
    + [r"\s+$", r"\s+(?!\S)", r"\s"]
)


def texts(pieces: list[str] = PIECES, count: int = 300) -> list[str]:
    draw = random.Random(5)
    return ["", *pieces, *("".join(draw.choices(pieces, k=draw.randint(1, 12))) for _ in range(count))]


def encoding(pattern: str, special: dict[str, int] | None = None) -> dict[str, Any]:
    ranks = {token: rank for rank, token in enumerate([*(bytes([byte]) for byte in range(256)), *MERGED])}
    end = {"<|endoftext|>": len(ranks)} if special is None else special
    return {"name": "mine", "pat_str": pattern, "mergeable_ranks": ranks, "special_tokens": end}


@pytest.fixture
def gpt2(monkeypatch: pytest.MonkeyPatch) -> Gpt2Tokenizer:
    """GPT-2's tokenizer with a small vocabulary, as its own is a download."""
    monkeypatch.setattr(
        "data.package_tokenizers._load_encoding", lambda name: tiktoken.Encoding(**encoding(r50k_pat_str))
    )
    return Gpt2Tokenizer()


def check(ours: Any, folder: Path, samples: list[str]) -> Any:
    """Assert that the exported tokenizer is like ours, and so is the one that its folder holds. Return this one."""
    made = to_hugging_face(ours, 32)
    made.save_pretrained(folder)
    loaded = AutoTokenizer.from_pretrained(folder)
    for tokenizer in (made, loaded):
        for text in samples:
            ids = ours.encode(text)
            assert tokenizer.encode(text) == ids, text
            assert tokenizer.decode(ids) == ours.decode(ids), text
        assert tokenizer.model_max_length == 32 and len(tokenizer) == ours.vocab_size
    return loaded


def test_characters_keep_their_ids(tmp_path: Path) -> None:
    characters = [piece for piece in PIECES if len(piece) == 1]
    ours = CharTokenizer.from_text("".join(characters) + "abc")
    loaded = check(ours, tmp_path, texts([*characters, "a", "bc"]))

    assert loaded.eos_token_id is None
    with pytest.raises(Exception, match="Missing .* token from the vocabulary"):
        loaded.encode("abcd")


def test_bytes_keep_their_ids(tmp_path: Path) -> None:
    assert check(ByteTokenizer(), tmp_path, texts()).eos_token_id is None


def test_gpt2s_words_are_split_as_tiktoken_splits_them(gpt2: Gpt2Tokenizer, tmp_path: Path) -> None:
    loaded = check(gpt2, tmp_path, [*texts(), "a<|endoftext|>b"])

    assert loaded.eos_token_id == gpt2.eot_token == 269 and loaded.encode("<|endoftext|>") == [269]


def test_other_encodings_keep_their_own_pattern(tmp_path: Path) -> None:
    """Also `$`, which is the end of the text there, and of a line in the tokenizers package."""
    special = {"<|a|>": 269, "<|endoftext|>": 270, "<|b|>": 271}
    loaded = check(TiktokenTokenizer(encoding(OTHER_PATTERN, special)), tmp_path, [*texts(), "a  \n  b  \n", "<|b|>x"])

    assert (loaded.bos_token, loaded.eos_token) == ("<|endoftext|>", "<|endoftext|>")
    assert check(TiktokenTokenizer(encoding(OTHER_PATTERN, {"<|a|>": 269})), tmp_path, ["x"]).eos_token is None


def test_a_bpe_of_a_data_set_keeps_its_ids(tmp_path: Path) -> None:
    sample = Sample(10**6)
    for text in texts():
        sample.add(text)
    ours = tokenizer_from_meta(train(sample, 400).meta())
    loaded = check(ours, tmp_path, [*texts(), "a<|endoftext|>b"])

    assert loaded.eos_token_id == ours.vocab_size - 1 and ours.vocab_size > 300


def test_a_tokenizer_without_a_like_is_not_made_up() -> None:
    tables = find_tables({"stoi": {"to": 0, "be": 1}, "itos": {0: "to", 1: "be"}})
    assert tables is not None and to_hugging_face(TableTokenizer(tables), 32) is None
    gaps = {"<|endoftext|>": 300}
    assert to_hugging_face(TiktokenTokenizer(encoding(r50k_pat_str, gaps)), 32) is None
