"""A BPE of one's own: what it is trained on, its vocabulary, and that its data set's meta.pkl gives it back."""

import io
import itertools
import random
import sys
from pathlib import Path

import pytest
import torch

from core.errors import ConfigError
from data.meta import read_meta, write_meta
from data.preparation import byte_pairs
from data.preparation.byte_pairs import END, Sample, train
from data.token_meaning import difference
from data.tokenizers import tokenizer_from_meta

pytest.importorskip("tokenizers")
LETTERS = random.Random(2)
WORDS = ["".join(LETTERS.choices("abcdeé漢", k=LETTERS.randint(2, 6))) for _ in range(100)]
TEXT = " ".join(["the king's men: 1234 times\n\n  the 🙂\n", *LETTERS.choices(WORDS, k=500)] * 4)


def sample(*texts: str, limit: int = 10**6) -> Sample:
    made = Sample(limit)
    for text in texts:
        made.add(text)
    return made


def test_all_bytes_and_the_end_are_in_the_vocabulary() -> None:
    tokenizer = train(sample(TEXT), 300)
    ranks = tokenizer.encoding._mergeable_ranks

    assert tokenizer.vocab_size == 300
    assert [ranks[bytes([byte])] for byte in range(256)] == list(range(256))
    assert tokenizer.encode(END) == [299] == [tokenizer.encoding.eot_token]
    assert len(tokenizer.encode_ordinary(TEXT)) < len(TEXT) * 0.7
    assert any(token.startswith(b" ") and len(token) > 2 for token in ranks)
    for text in (TEXT, "".join(map(chr, range(1, 0x3000))), "a  \n b"):
        assert tokenizer.decode(tokenizer.encode_ordinary(text)) == text


def test_a_short_text_has_a_smaller_vocabulary() -> None:
    tokenizer = train(sample("aaaa"), 1000)

    assert 257 < tokenizer.vocab_size < 270 and tokenizer.encode(END) == [tokenizer.vocab_size - 1]
    assert train(sample(TEXT), 257).vocab_size == 257


def test_the_same_text_gives_the_same_tokens() -> None:
    one, two, other = train(sample(TEXT), 400), train(sample(TEXT), 400), train(sample(TEXT[::-1]), 400)

    assert one.meta() == two.meta() and one.name != other.name and one.vocab_size == 400


def test_meta_pkl_and_a_checkpoint_give_the_tokenizer_back(tmp_path: Path) -> None:
    tokenizer = train(sample(TEXT), 400)
    write_meta(tmp_path / "meta.pkl", tokenizer.meta() or {})
    meta = read_meta(tmp_path / "meta.pkl")
    file = io.BytesIO()
    torch.save({"meta": meta}, file)
    file.seek(0)
    kept = torch.load(file, weights_only=True)["meta"]

    for content in (meta, kept):
        same = tokenizer_from_meta(content)
        assert same.meta() == tokenizer.meta() and same.vocab_size == 400
        assert same.encode(TEXT + END) == tokenizer.encode(TEXT + END)
    assert not difference(meta, kept)
    assert difference(meta, train(sample(TEXT[::-1]), 400).meta())


def test_a_sample_is_spread_over_all_texts() -> None:
    made = sample(*(f"{number:05}" for number in range(1000)), limit=500)
    numbers = [int(text) for text in made.drain()]

    assert 50 <= len(numbers) <= 100 and made.texts == []
    assert {later - earlier for earlier, later in itertools.pairwise(numbers)} == {16}
    assert numbers[0] == 0 and numbers[-1] > 980


def test_a_sample_never_has_more_bytes_than_asked() -> None:
    draw = random.Random(1)
    for limit in (1, 7, 100):
        made = Sample(limit)
        for _ in range(200):
            made.add("é" * draw.randint(0, 30))
            assert sum(map(len, made.texts)) <= limit
        assert all(set(text) <= {"é"} for text in made.drain())
    assert list(sample("all", "of it", limit=8).drain()) == ["all", "of it"]


def test_few_different_words_are_kept() -> None:
    draw = random.Random(1)
    made = sample(*(f"same {draw.getrandbits(64):x}" for _ in range(64)))
    made.limit_words(200)

    assert len(made.texts) == 16  # of each word the runs of letters and of digits count
    same = sample(*["same words"] * 64)
    same.limit_words(200)
    assert len(same.texts) == 64


@pytest.mark.parametrize("package", ["tokenizers", "tiktoken"])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=f"needs the packages tokenizers and tiktoken .*{package}.*pip install"):
        byte_pairs.require_packages()
