"""What people's meta.pkl files say: tables in every form, their size, and names of tokenizers."""

from typing import Any

import pytest

from data.meta_contents import Tables, count_ids, find_tables, find_vocab_size, sentencepiece_model, tiktoken_encoding

AB = Tables({"a": 0, "b": 1}, {0: "a", 1: "b"})


@pytest.mark.parametrize(
    "meta",
    [
        {"stoi": {"a": 0, "b": 1}},
        {"itos": {0: "a", 1: "b"}},
        {"itos": ["a", "b"]},
        {"stoi": ["a", "b"]},
        {"chars": "ab"},
        {"chars": ("a", "b")},
        {"vocab": {"a": 0, "b": 1}},
        {"vocab": {0: "a", 1: "b"}},
        {"itos": {"0": "a", "1": "b"}},
        {"word2idx": {"a": 0, "b": 1}, "idx2word": {0: "a", 1: "b"}},
        {"stoi": {"a": 0.5}, "char_to_idx": {"a": 0, "b": 1}},
        {"vocab": {"a": 7, "b": 2}, "itos": ["a", "b"]},  # how often they occur
    ],
)
def test_tables_in_every_form(meta: dict[str, Any]) -> None:
    assert find_tables(meta) == AB
    assert count_ids(meta) == find_vocab_size(meta) == 2


def test_both_tables_are_kept_as_they_are() -> None:
    meta = {"stoi": {"A": 0, "a": 0, "b": 1}, "itos": {0: "A", 1: "b", 2: "b"}}

    assert find_tables(meta) == Tables(meta["stoi"], meta["itos"])  # type: ignore[arg-type]
    assert find_tables({"stoi": meta["stoi"]}) == Tables(meta["stoi"], {0: "A", 1: "b"})  # type: ignore[arg-type]
    assert find_tables({"itos": meta["itos"]}) == Tables({"A": 0, "b": 1}, meta["itos"])  # type: ignore[arg-type]


def test_of_two_ids_of_a_token_the_first_is_used() -> None:
    tables = find_tables({"itos": ["a", "a", "b"]})
    assert tables is not None and tables.stoi == {"a": 0, "b": 2} and tables.itos == {0: "a", 1: "a", 2: "b"}


def test_numbers_are_bytes_if_they_can_be_text() -> None:
    by_byte = Tables({b"\n": 0, b"a": 1}, {0: b"\n", 1: b"a"})

    assert find_tables({"stoi": {10: 0, 97: 1}}) == by_byte
    assert find_tables({"itos": {0: 10, 1: 97}}) == by_byte
    assert find_tables({"itos": [10, 97]}) == by_byte
    assert find_tables({"itos": [b"\n", b"a"]}) == by_byte
    assert count_ids({"itos": {0: 10, 1: 97}}) == count_ids({"stoi": {10: 0, 97: 1}}) == 2
    assert find_tables({"stoi": {"a": 0, 10: 1}}) == Tables({"a": 0, b"\n": 1}, {0: "a", 1: b"\n"})
    for numbers in ([0, 1, 9], [5, 300]):
        assert find_tables({"itos": numbers}) is None


@pytest.mark.parametrize(
    "meta",
    [{}, {"stoi": {}}, {"itos": []}, {"stoi": {"a": -1}}, {"stoi": {"a": None}}, {"itos": [["a"]]}, {"stoi": 5}],
)
def test_anything_else_is_no_table(meta: dict[str, Any]) -> None:
    assert find_tables(meta) is None


def test_ids_are_counted_to_the_largest() -> None:
    assert count_ids({"stoi": {"a": 0, "b": 9}}) == 10
    assert count_ids({"itos": {"0": "a", "11": "b"}}) == 12
    assert count_ids({"chars": {"a", "b", "c"}}) == 3
    assert count_ids({"vocab": {"a": 500, "b": 20, "c": 3}}) == 3
    assert count_ids({"stoi": {}, "chars": ""}) is None


@pytest.mark.parametrize(
    ("meta", "encoding", "size"),
    [
        ({"tokenizer": "tiktoken", "tiktoken_encoding": "cl100k_base"}, "cl100k_base", 100277),
        ({"tokenizer": "r50k_base"}, "r50k_base", 50257),
        ({"tokenizer": "tiktoken:o200k_base"}, "o200k_base", 200019),
        ({"tokenizer_name": "GPT-2"}, "gpt2", 50257),
        ({"tokenizer": "openai-community/gpt2-xl"}, "gpt2", 50257),
        ({"tokenizer": "distilgpt2"}, "gpt2", 50257),
        ({"tokenizer": "someone/gpt2"}, None, None),
        ({"tokenizer": "GPT2TokenizerFast"}, None, None),  # the class of many a user's own vocabulary
        ({"tokenizer": "tiktoken", "vocab_size": 50281}, "p50k_base", None),
        ({"tokenizer": "tiktoken", "encoding": "new_base"}, "new_base", None),
        ({"tokenizer": "tiktoken"}, "", None),
        ({"enc": {"class": "tiktoken.core.Encoding", "state": "p50k_edit"}}, "p50k_edit", 50284),
        ({"enc": {"class": "tiktoken.core.Encoding", "state": {"name": "own"}}}, {"name": "own"}, None),
        ({"encoding": "utf-8"}, None, None),
        ({"tokenizer": "byte"}, None, 256),
    ],
)
def test_names_of_tiktokens_encodings(meta: dict[str, Any], encoding: Any, size: int | None) -> None:
    assert tiktoken_encoding(meta) == encoding
    assert size is None or find_vocab_size(meta) == size


def test_the_sizes_of_the_encodings_are_tiktokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its definitions, with tables of the right length in place of the files."""
    load = pytest.importorskip("tiktoken_ext.openai_public")
    from data.meta_contents import ENCODINGS

    for loader in ("load_tiktoken_bpe", "data_gym_to_mergeable_bpe_ranks"):
        monkeypatch.setattr(load, loader, lambda *_, **__: {})
    for name, size in ENCODINGS.items():
        known = load.ENCODING_CONSTRUCTORS[name]()
        assert size == known.get("explicit_n_vocab", max(known["special_tokens"].values()) + 1)


@pytest.mark.parametrize(
    ("meta", "model"),
    [
        ({"spm_model_file": "tok.model"}, "tok.model"),
        ({"tokenizer": "tok.model"}, "tok.model"),
        ({"sp": {"class": "sentencepiece.SentencePieceProcessor", "state": {"model_proto": b"x"}}}, b"x"),
        ({"sp": {"class": "sentencepiece.SentencePieceProcessor", "state": b"x"}}, b"x"),
        ({"tokenizer": "sentencepiece"}, None),
    ],
)
def test_models_of_sentencepiece(meta: dict[str, Any], model: Any) -> None:
    assert sentencepiece_model(meta) == model
