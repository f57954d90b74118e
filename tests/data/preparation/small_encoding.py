"""A tiktoken.Encoding with GPT-2's pattern and a small vocabulary, as GPT-2's own is a download."""

from typing import Any

import pytest
from tiktoken_ext.openai_public import r50k_pat_str

MERGED = [b"th", b"the", b" t", b" th", b" the", b"\n\n", b"  ", b"   ", b"er", "é".encode(), b"12", b"...", b"\r\n"]
MERGED += [b"'s", b"'l", b"'ll", b" '", b"!'", b" \n", b"\n ", b"e\xcc", b"\t\t", b" 1", b"''", b"s'", b"he", b" a"]


def arguments() -> dict[str, Any]:
    tokens = [*(bytes([byte]) for byte in range(256)), *MERGED]
    ranks = {token: rank for rank, token in enumerate(tokens)}
    return {
        "name": "small",
        "pat_str": r50k_pat_str,
        "mergeable_ranks": ranks,
        "special_tokens": {"<|endoftext|>": len(ranks)},
    }


def use_for_gpt2(monkeypatch: pytest.MonkeyPatch) -> None:
    import tiktoken

    monkeypatch.setattr("data.package_tokenizers._load_encoding", lambda name: tiktoken.Encoding(**arguments()))
