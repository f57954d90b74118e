"""Tokenizers: encoding, decoding, and clear errors."""

import sys
from pathlib import Path
from typing import Any

import pytest

from core.errors import DataError
from data.table_tokenizer import TableTokenizer
from data.tokenizers import ByteTokenizer, CharTokenizer, Gpt2Tokenizer, tokenizer_from_meta

TEXTS = ["", "a cab\n", "naïve ☃ 🙂", "<|endoftext|>"]


@pytest.fixture(scope="module")
def gpt2() -> Gpt2Tokenizer:
    try:
        return Gpt2Tokenizer()
    except DataError as error:
        pytest.skip(str(error))


def test_characters_are_numbered_in_sorted_order() -> None:
    tokenizer = CharTokenizer.from_text("cab\ncab")

    assert tokenizer.vocab_size == 4
    assert tokenizer.encode("\nabc") == [0, 1, 2, 3]


def test_char_meta_is_nanogpts() -> None:
    assert CharTokenizer.from_text("ba").meta() == {
        "vocab_size": 2,
        "itos": {0: "a", 1: "b"},
        "stoi": {"a": 0, "b": 1},
    }


@pytest.mark.parametrize("text", TEXTS)
def test_decoding_undoes_encoding(text: str) -> None:
    for tokenizer in (CharTokenizer.from_text(text), ByteTokenizer()):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.encode_ordinary(text) == tokenizer.encode(text)


def test_missing_characters_are_named() -> None:
    with pytest.raises(DataError, match=r"2 characters lack '\\n', 'c', 'd', 'e', 'f' and 1 more: "):
        CharTokenizer.from_text("ab").encode("abcdefg\n")


def test_a_single_missing_character_is_named_alone() -> None:
    with pytest.raises(DataError, match="lack 'é': remove"):
        CharTokenizer.from_text("ab").encode("bé")


def test_ids_outside_the_vocabulary_decode_to_the_replacement_character() -> None:
    assert CharTokenizer.from_text("ab").decode([0, 2, 1]) == "a\ufffdb"
    assert ByteTokenizer().decode([97, 256, -1, 98]) == "a\ufffd\ufffdb"


def test_bytes_are_utf8() -> None:
    assert ByteTokenizer().encode("é") == [0xC3, 0xA9]


def test_half_a_character_decodes_to_the_replacement_character() -> None:
    assert ByteTokenizer().decode([97, 0xC3]) == "a\ufffd"


def test_byte_meta_serves_nanogpts_sample() -> None:
    """sample.py of nanoGPT looks characters up in stoi and ids in itos."""
    meta = ByteTokenizer().meta()

    assert [meta["stoi"][c] for c in "To be"] == ByteTokenizer().encode("To be")
    assert "".join(meta["itos"][i] for i in ByteTokenizer().encode("To be")) == "To be"
    assert meta["vocab_size"] == len(meta["itos"]) == len(meta["stoi"]) == 256


def test_meta_leads_back_to_the_tokenizer() -> None:
    char = tokenizer_from_meta(CharTokenizer.from_text("cab").meta())

    assert isinstance(char, CharTokenizer) and char.encode("abc") == [0, 1, 2]
    assert isinstance(tokenizer_from_meta(ByteTokenizer().meta()), ByteTokenizer)


def test_itos_may_be_a_list() -> None:
    tokenizer = tokenizer_from_meta({"vocab_size": 2, "stoi": {"a": 0, "b": 1}, "itos": ["a", "b"]})

    assert tokenizer.decode([1, 0]) == "ba"


@pytest.mark.parametrize(
    "change", [{"stoi": None}, {"itos": None}, {"stoi": {0: "a", 1: "b"}}, {"itos": {"a": 0, "b": 1}}, {"itos": "ab"}]
)
def test_one_table_is_enough_in_any_form(change: dict[str, Any]) -> None:
    tokenizer = tokenizer_from_meta(CharTokenizer.from_text("ab").meta() | change)

    assert isinstance(tokenizer, CharTokenizer)
    assert tokenizer.encode("ba") == [1, 0] and tokenizer.decode([0, 1]) == "ab"


@pytest.mark.parametrize(
    "meta", [{"chars": {"a", "b"}}, {"stoi": {1000: 0}}, {"vocab": {"a": 5, "b": 3}}, {"itos": {0: None}}]
)
def test_without_a_table_of_text_the_error_lists_what_there_is(meta: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=rf"no table of text tokens, only vocab_size, {next(iter(meta))}: write stoi"):
        tokenizer_from_meta({"vocab_size": 2, **meta})


def test_words_have_a_tokenizer_of_their_own() -> None:
    words = tokenizer_from_meta({"vocab_size": 3, "stoi": {"the": 0, "cat": 1, "[UNK]": 2}})

    assert isinstance(words, TableTokenizer)
    assert words.encode("the dog") == [0, 2] and words.decode([0, 1]) == "the cat"


@pytest.mark.parametrize("key", ["tokenizer", "tokenizer_type"])
def test_an_unknown_tokenizer_is_refused(key: str) -> None:
    with pytest.raises(DataError, match="names the tokenizer 'bpe2' and has no tables of tokens, wanted char, byte"):
        tokenizer_from_meta({"vocab_size": 2, key: "BPE2"})


def test_an_object_of_another_package_is_named() -> None:
    held = {"class": "tokenizers.Tokenizer", "state": b"{}"}

    with pytest.raises(DataError, match=r"an object of tokenizers\.Tokenizer, wanted tables of tokens: write stoi"):
        tokenizer_from_meta({"vocab_size": 2, "tokenizer": held})


def test_bytes_with_other_ids_are_a_table() -> None:
    itos = {0: "<pad>", **{byte + 1: bytes([byte]) for byte in range(256)}}

    shifted = tokenizer_from_meta({"vocab_size": 257, "tokenizer": "byte", "itos": itos})

    assert shifted.encode("é") == [0xC4, 0xAA] and shifted.decode([0xC4, 0xAA]) == "é"


def test_sentencepiece_is_named_or_replaced_by_its_tables(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    (tmp_path / "m.model").touch()
    meta = {"vocab_size": 3, "tokenizer": "sentencepiece", "model_file": str(tmp_path / "m.model")}

    with pytest.raises(DataError, match="pip install sentencepiece, and write the path of the .model file"):
        tokenizer_from_meta({"vocab_size": 3, "tokenizer": "sentencepiece"})
    with pytest.raises(DataError, match="is of a SentencePiece tokenizer: pip install sentencepiece$"):
        tokenizer_from_meta(meta)
    pieces = tokenizer_from_meta(meta | {"stoi": {"▁the": 0, "▁c": 1, "at": 2}})
    assert pieces.encode("the cat") == [0, 1, 2] and pieces.decode([0, 1, 2]) == "the cat"
    assert "a prompt is split into the longest known tokens" in caplog.text


@pytest.mark.parametrize(
    "meta",
    [
        {"tokenizer": "gpt2"},
        {"tokenizer": "tiktoken", "tiktoken_encoding": "gpt2"},
        {"tokenizer": "tiktoken"},
        {"encoding": "GPT-2"},
        {"enc": {"class": "tiktoken.core.Encoding", "state": "gpt2"}},
        {},
    ],
)
def test_gpt2_under_its_other_names(gpt2: Gpt2Tokenizer, meta: dict[str, Any]) -> None:
    assert isinstance(tokenizer_from_meta({"vocab_size": 50257, **meta}), Gpt2Tokenizer)


@pytest.mark.parametrize("text", TEXTS)
def test_gpt2_decoding_undoes_encoding(gpt2: Gpt2Tokenizer, text: str) -> None:
    assert gpt2.decode(gpt2.encode(text)) == text
    assert gpt2.decode(gpt2.encode_ordinary(text)) == text


def test_gpt2_ids_are_the_known_ones(gpt2: Gpt2Tokenizer) -> None:
    assert gpt2.vocab_size == 50257
    assert gpt2.encode("Hello world") == [15496, 995]


def test_the_end_of_text_token_is_special_in_prompts_only(gpt2: Gpt2Tokenizer) -> None:
    assert gpt2.encode("<|endoftext|>") == [gpt2.eot_token] == [50256]
    assert 50256 not in gpt2.encode_ordinary("<|endoftext|>")


def test_gpt2_batches_equal_single_texts(gpt2: Gpt2Tokenizer) -> None:
    assert gpt2.encode_ordinary_batch(TEXTS, 2) == [gpt2.encode_ordinary(text) for text in TEXTS]


def test_ids_of_a_padded_vocabulary_do_not_crash(gpt2: Gpt2Tokenizer) -> None:
    """nanoGPT rounds 50257 up to 50304; an untrained model samples from the rest, too."""
    assert gpt2.decode([15496, 50257, 50303, 995]) == "Hello\ufffd\ufffd world"


def test_no_meta_means_gpt2(gpt2: Gpt2Tokenizer) -> None:
    assert gpt2.meta() is None
    assert isinstance(tokenizer_from_meta(None), Gpt2Tokenizer)


def test_gpt2_without_cache_and_network_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = pytest.importorskip("tiktoken.registry")
    monkeypatch.setattr(registry, "ENCODINGS", {})  # forget what this process has loaded
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)

    with pytest.raises(DataError, match="TIKTOKEN_CACHE_DIR"):
        Gpt2Tokenizer()


def test_gpt2_without_tiktoken_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tiktoken", None)

    with pytest.raises(DataError, match="pip install tiktoken"):
        Gpt2Tokenizer()
