"""data/streaming/batch_file.py: both layouts are read, and damaged files are refused."""

import builtins
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import DataError
from data.streaming.batch_file import StoredBatch, check_ids, read_batches, write_batches


def batch(start: int, rows: int = 2) -> StoredBatch:
    inputs = torch.arange(start, start + 3 * rows).view(rows, 3)
    return StoredBatch({"input": inputs, "target": inputs + 1}, {"model_mode": "language_model"})


def test_written_batches_are_read_again(tmp_path: Path) -> None:
    write_batches(tmp_path / "a.pt", [batch(0), batch(10)], {"file_idx": 7})

    first, second = read_batches(tmp_path / "a.pt", 2)

    assert first.tensors["input"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert second.tensors["target"].tolist() == [[11, 12, 13], [14, 15, 16]]
    assert second.metadata == {"model_mode": "language_model"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("names", [("x", "y"), ("input_ids", "targets"), ("input", "target")])
def test_older_files_of_one_tensor_per_name_are_cut_into_batches(tmp_path: Path, names: tuple[str, str]) -> None:
    rows = torch.arange(5).view(5, 1)
    tensors = {names[0]: rows, names[1]: rows[:, 0] + 10, "attention_mask": rows + 20}
    torch.save({"tensors": tensors, "metadata": {"batch_size": 5}}, tmp_path / "a.pt")

    batches = read_batches(tmp_path / "a.pt", 2)

    assert [b.tensors["input"].flatten().tolist() for b in batches] == [[0, 1], [2, 3], [4, 4]]  # filled up
    assert [b.tensors["target"].tolist() for b in batches] == [[10, 11], [12, 13], [14, 14]]
    assert batches[1].tensors["attention_mask"].flatten().tolist() == [22, 23]


def test_a_list_of_batches_must_have_the_given_size(tmp_path: Path) -> None:
    write_batches(tmp_path / "a.pt", [batch(0)], {})

    with pytest.raises(DataError, match=r"a\.pt holds batches of 2 rows, wanted batch_size=4"):
        read_batches(tmp_path / "a.pt", 4)


@pytest.mark.parametrize(
    ("name", "value", "place"),
    [
        ("input", 30, "token id 30 at batch 1, row 1, position 2 of input"),
        ("input", -1, "token id -1 at batch 1, row 1, position 2 of input"),
        ("target", 30, "token id 30 at batch 1, row 1, position 2 of target"),
    ],
)
def test_an_id_outside_the_vocabulary_is_named(name: str, value: int, place: str) -> None:
    batches = [batch(0), batch(10)]
    check_ids(Path("a.pt"), batches, 17)
    batches[1].tensors[name][1, 2] = value

    with pytest.raises(
        DataError, match=rf"^a\.pt holds {place}, but the model has ids from 0 to 29: .*remove the file"
    ):
        check_ids(Path("a.pt"), batches, 30)


def test_scores_and_positions_without_a_target_are_no_ids() -> None:
    inputs = torch.zeros(2, 3, dtype=torch.long)
    scores = StoredBatch({"input": inputs, "target": torch.tensor([0.5, 40.0])}, {})
    ignored = StoredBatch({"input": inputs, "target": inputs - 100}, {})

    check_ids(Path("a.pt"), [scores, ignored], 1)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    write_batches(path, [batch(0)], {})
    path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(DataError, match=r"cannot read .*a\.pt: it is truncated, damaged.*remove the file"):
        read_batches(path, 2)


def test_one_wrong_bit_in_a_tensor_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    write_batches(path, [batch(0)], {})
    content = bytearray(path.read_bytes())
    place = content.index((4).to_bytes(8, "little"))
    content[place] ^= 1
    path.write_bytes(content)

    with pytest.raises(DataError, match="checksum"):
        read_batches(path, 2)


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        ([1, 2], "not a file of batches"),
        ({"batches": []}, "holds no batch"),
        ({"batches": [{"tensors": {"input": torch.zeros(2, 1)}, "metadata": {}}]}, "no tensor called target or y"),
        ({"batches": [{"tensors": {"x": 1, "y": 2}, "metadata": {}}]}, "wanted tensors"),
        ({"tensors": {"x": torch.zeros(2, 1), "y": torch.zeros(3)}}, "differ in their number of rows"),
    ],
)
def test_a_file_without_batches_is_refused(tmp_path: Path, stored: Any, reason: str) -> None:
    torch.save(stored, tmp_path / "a.pt")

    with pytest.raises(DataError, match=reason):
        read_batches(tmp_path / "a.pt", 2)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return builtins.open, (str(tmp_path / "sprung"), "w")

    torch.save({"batches": [Trap()]}, tmp_path / "a.pt", pickle_module=pickle)

    with pytest.raises(DataError, match="more than tensors and plain values"):
        read_batches(tmp_path / "a.pt", 2)
    assert not (tmp_path / "sprung").exists()


def test_a_missing_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot write"):
        write_batches(tmp_path / "missing" / "a.pt", [batch(0)], {})


def test_a_pipe_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pt")
    with pytest.raises(DataError, match=r"cannot read .*a\.pt: .* \(it is a named pipe\); remove the file"):
        read_batches(tmp_path / "a.pt", 2)
