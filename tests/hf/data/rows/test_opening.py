"""Data sets of rows: which files a name means, which splits there are, as tables and as streams."""

import json
from pathlib import Path

import pytest

from core.errors import DataError
from data.rows.opening import are_rows, open_rows


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write(path: str, *texts: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")


def test_a_name_says_whether_a_data_set_is_one_of_rows() -> None:
    assert [are_rows(name) for name in ("hf:a/b", "x.jsonl", "x.JSON", "x.parquet", "hf:x.txt")] == [True] * 5
    assert [are_rows(name) for name in ("openwebtext", "notes.txt", "x.bin", "data/x", "x.csv")] == [False] * 5


@pytest.mark.parametrize("streaming", [False, True])
def test_files_of_each_kind_are_read(streaming: bool) -> None:
    import datasets

    write("a.jsonl", "one", "two")
    Path("a.json").write_text(json.dumps([{"text": "one"}, {"text": "two"}]))
    Path("a.txt").write_text("one\ntwo\n")
    Path("a.csv").write_text("text\none\ntwo\n")
    datasets.Dataset.from_dict({"text": ["one", "two"]}).to_parquet("a.parquet")
    for name in ("a.jsonl", "a.json", "hf:a.txt", "hf:a.csv", "a.parquet"):
        rows = open_rows(name, streaming=streaming)
        found = rows.training() if streaming else rows.training
        assert [row["text"] for row in found] == ["one", "two"] and rows.validation is None
        assert rows.columns == ["text"] and rows.fingerprint


def test_a_folder_may_have_splits_and_a_pattern_may_mean_several_files() -> None:
    write("set/train.jsonl", "a")
    write("set/validation.jsonl", "b")
    rows = open_rows("hf:set")
    assert rows.training[0] == {"text": "a"} and rows.validation[0] == {"text": "b"}
    for number in range(3):
        write(f"parts/p{number}.jsonl", str(number))
    assert [row["text"] for row in open_rows("hf:parts/p*.jsonl").training] == ["0", "1", "2"]
    assert len(open_rows("hf:parts").training) == 3
    assert open_rows("hf:set", val_split="train").validation[0] == {"text": "a"}


def test_shards_of_splits_are_told_by_their_names() -> None:
    for split in ("train", "test"):
        for number in range(2):
            write(f"copy/data/{split}-0000{number}-of-00002.jsonl", f"{split} {number}")
    rows = open_rows("hf:copy")
    assert [row["text"] for row in rows.training] == ["train 0", "train 1"]
    assert [row["text"] for row in rows.validation] == ["test 0", "test 1"]
    assert len(open_rows("hf:copy/*/train-*.jsonl").training) == 2


def test_changed_files_have_another_fingerprint() -> None:
    write("a.jsonl", "one")
    before = open_rows("a.jsonl").fingerprint
    write("a.jsonl", "two")
    assert open_rows("a.jsonl").fingerprint != before
    write("a.jsonl", "one")  # another time, the same content
    assert open_rows("a.jsonl").fingerprint == before


def test_what_cannot_be_had_is_one_message() -> None:
    write("a.jsonl", "one")
    Path("empty").mkdir()
    Path("mixed").mkdir()
    write("mixed/a.jsonl", "x")
    Path("mixed/b.csv").write_text("text\nx\n")
    Path("bad.jsonl").write_text("{nonsense\n")
    for name, more, message in (
        ("gone.jsonl", {}, "^dataset=gone.jsonl: there is no such file"),
        ("hf:gone-*.jsonl", {}, r"^dataset=gone-\*.jsonl: no file has such a name"),
        ("hf:empty", {}, "^dataset=empty: the folder holds no .json, "),
        ("hf:mixed", {}, "^dataset=mixed: wanted files of one kind"),
        ("bad.jsonl", {}, "^dataset=bad.jsonl cannot be read: "),
        ("a.jsonl", {"train_split": "test"}, "^dataset=a.jsonl has no split test, only train: set train_split"),
        ("a.jsonl", {"val_split": "dev"}, "^dataset=a.jsonl has no split dev, only train: correct val_split"),
        (
            "hf:someone/nothing",
            {},
            "^dataset=hf:someone/nothing cannot be had .*: go online once, or give a local file",
        ),
    ):
        with pytest.raises(DataError, match=message):
            open_rows(name, **more)  # type: ignore[arg-type]
