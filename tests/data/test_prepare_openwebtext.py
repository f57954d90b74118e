"""data/openwebtext/prepare.py: documents of one's own, and the words when Hugging Face is absent."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from core.errors import ConfigError, DataError
from data.openwebtext.prepare import REVISION, load_corpus, local_documents, main, read_documents
from data.tokenizers import Gpt2Tokenizer


@pytest.fixture(scope="module")
def gpt2() -> Gpt2Tokenizer:
    try:
        return Gpt2Tokenizer()
    except DataError as error:
        pytest.skip(str(error))


def jsonl(path: Path, documents: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text, "url": "x"}) + "\n" for text in documents))
    return path


def test_files_become_documents_in_order(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("a\nb\n")
    (tmp_path / "many.jsonl").write_text('{"text": "c\\nd"}\n\n{"text": "é", "url": "x"}')

    assert list(read_documents([tmp_path / "one.txt", tmp_path / "many.jsonl"])) == ["a\nb\n", "c\nd", "é"]


@pytest.mark.parametrize("count", [2, 10, 5001])
def test_each_document_is_in_one_split(tmp_path: Path, count: int) -> None:
    documents = [f"document {index:05}" for index in range(count)]

    train, val = map(list, local_documents([jsonl(tmp_path / "d.jsonl", documents)]))

    assert sorted(train + val) == documents
    assert len(val) == math.ceil(0.0005 * count)
    assert train == sorted(train)


def test_validation_documents_come_from_nanogpts_shuffle(tmp_path: Path) -> None:
    documents = [f"document {index:05}" for index in range(5001)]

    _, val = local_documents([jsonl(tmp_path / "d.jsonl", documents)])

    order = np.random.default_rng(2357).permutation(5001)
    assert set(val) == {documents[index] for index in order[:3]}


def test_every_document_ends_with_the_end_of_text_token(
    gpt2: Gpt2Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = ["Hello world", "", "one <|endoftext|> two", "the last"] * 500
    source = jsonl(tmp_path / "d.jsonl", documents)

    main(["--input", str(source), "--out", str(tmp_path / "out"), "--threads", "1"])

    counts = []
    for name, split in zip(("train", "val"), local_documents([source]), strict=True):
        want = [token for text in split for token in [*gpt2.encode_ordinary(text), 50256]]
        assert np.fromfile(tmp_path / "out" / f"{name}.bin", dtype=np.uint16).tolist() == want
        counts.append(len(want))
    assert not (tmp_path / "out" / "meta.pkl").exists()
    assert capsys.readouterr().out == f"train has {counts[0]:,} tokens\nval has {counts[1]:,} tokens\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.jsonl", '{"text": "a"}\n{"text"\n', r"d\.jsonl, line 2 is not JSON"),
        ("d.jsonl", '{"text": "a"}\n\n{"body": "b"}\n', r'd\.jsonl, line 3 has no "text"'),
        ("d.jsonl", '["a", "b"]\n', r'line 1 has no "text"'),
        ("d.jsonl", '{"text": 5}\n', r'line 1 has no "text"'),
        ("d.jsonl", '{"text": "a"}\n', "1 documents, wanted 2 or more"),
        ("d.csv", "a,b\n", r"d\.csv is neither \.txt nor \.jsonl"),
        ("d.jsonl", None, "cannot read"),
    ],
)
def test_bad_files_are_one_clear_error(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)

    with pytest.raises(DataError, match=message):
        local_documents([tmp_path / name])


def test_lines_that_are_not_utf8_are_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(b'{"text": "caf\xe9"}\n')

    with pytest.raises(DataError, match="not UTF-8"):
        local_documents([tmp_path / "d.jsonl"])


def test_no_threads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--threads is 0"):
        main(["--threads", "0", "--out", str(tmp_path / "out")])


def test_without_hugging_face_the_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)

    with pytest.raises(DataError, match=r"pip install -e '\.\[hf\]', or give --input"):
        load_corpus()


def test_the_corpus_is_pinned_to_a_commit() -> None:
    """A branch name could bring other text tomorrow."""
    assert len(REVISION) == 40
    assert set(REVISION) <= set("0123456789abcdef")
