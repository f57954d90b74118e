"""data/streaming/char_text.py: the vocabulary and its special tokens, and rows of the text."""

from pathlib import Path

import numpy as np
import pytest
import torch

from core.errors import ConfigError, DataError
from data.meta import write_meta
from data.streaming.char_text import CharText
from tests.data.streaming.conftest import LINES


def test_special_tokens_follow_the_characters(text: CharText) -> None:
    size = len(set("".join(LINES)))

    assert (text.base_size, text.mask_id, text.pad_id, text.cls_id) == (size, size, size + 1, size + 2)
    assert text.vocab_size == size + 3
    assert text.newline_id == 0
    meta = text.meta()
    assert meta["itos"][size] == "[MASK]" and meta["stoi"]["[PAD]"] == size + 1 and meta["cls_token_id"] == size + 2


def test_a_vocabulary_with_special_tokens_is_read_the_same(text: CharText, tmp_path: Path) -> None:
    write_meta(text.folder / "meta.pkl", text.meta())

    assert CharText(text.folder).meta() == text.meta()


def test_another_place_for_cls(text: CharText) -> None:
    size = text.base_size

    swapped, far = CharText(text.folder, size + 1), CharText(text.folder, 100)

    assert (swapped.mask_id, swapped.cls_id, swapped.pad_id, swapped.vocab_size) == (size, size + 1, size + 2, size + 3)
    assert (far.mask_id, far.pad_id, far.cls_id, far.vocab_size) == (size, size + 1, 100, 101)
    with pytest.raises(ConfigError, match="cls_token_id=3 is the id of a character"):
        CharText(text.folder, 3)


def test_the_text_is_prepared_from_input_txt_next_to_the_queue(tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_text("".join(LINES) * 20)
    write_meta(tmp_path / "meta.pkl", {"vocab_size": 66})  # an older queue's

    text = CharText.prepared(tmp_path)

    assert text.folder == tmp_path / "text"
    ids = np.fromfile(text.folder / "train.bin", dtype=np.uint16)
    assert len(ids) == int(0.9 * 20 * len("".join(LINES)))
    assert CharText.prepared(tmp_path).folder == text.folder
    assert (tmp_path / "meta.pkl").exists() and not (tmp_path / "train.bin").exists()


def test_a_prepared_data_set_is_used_as_it_is(text: CharText) -> None:
    assert CharText.prepared(text.folder).folder == text.folder


def test_rows_are_complete_lines_or_windows(text: CharText) -> None:
    draw = torch.Generator().manual_seed(0)
    rows, lengths = text.windows("train", 40, line_aligned=True).draw(50, draw)
    stoi = text.meta()["stoi"]
    lines = [[stoi[c] for c in line] for line in LINES]
    begins = [line[:16] for line in lines if len(line) > 1]
    for row, length in zip(rows.tolist(), lengths.tolist(), strict=True):
        assert any(row[: min(len(begin), length)] == begin[:length] for begin in begins)
        assert set(row[length:]) <= {text.pad_id} and text.pad_id not in row[:length]
    assert (lengths < 40).any()
    _, lengths = text.windows("val", 40, line_aligned=False).draw(50, draw)
    assert (lengths == 40).all()


def test_lines_are_those_of_the_split_but_for_blank_ones(text: CharText) -> None:
    stoi = text.meta()["stoi"]
    lines = text.lines("val")
    allowed = [[stoi[c] for c in line] for line in LINES if line != "\n"]

    assert all(line in allowed for line in lines[1:-1])
    assert sum(map(len, lines)) <= 500


def test_a_data_set_not_by_character_is_refused(tmp_path: Path) -> None:
    write_meta(tmp_path / "meta.pkl", {"vocab_size": 50257})
    with pytest.raises(DataError, match="no characters"):
        CharText(tmp_path)
    write_meta(tmp_path / "meta.pkl", {"vocab_size": 2, "stoi": {"a": 0, "b": 5}})
    with pytest.raises(DataError, match="are not 0 to 1"):
        CharText(tmp_path)
    write_meta(tmp_path / "meta.pkl", {"vocab_size": 2, "stoi": {"a": 0, "b": 1}})
    with pytest.raises(ConfigError, match="enable_line_aligned_sequences=False"):
        CharText(tmp_path).windows("train", 4, line_aligned=True)
    with pytest.raises(ConfigError, match="'line' cannot be used"):
        CharText(tmp_path).lines("train")


def test_an_id_that_is_no_character_is_refused(text: CharText) -> None:
    """It would be read as [MASK]."""
    np.full(400, text.mask_id, np.uint16).tofile(text.folder / "val.bin")

    for read in (lambda: text.windows("val", 4, line_aligned=False), lambda: text.lines("val")):
        with pytest.raises(DataError, match=rf"val\.bin holds token id {text.mask_id}, at position 0, "):
            read()
