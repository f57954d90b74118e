"""Windows: start positions, complete lines, padding, and clear errors about files that cannot be used."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import data.windows
from core.errors import ConfigError, DataError
from data.meta import write_meta
from data.token_file import TokenFile
from data.windows import Windows

PAD, NEWLINE = 99, 0


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def write(folder: Path, tokens: list[int]) -> Path:
    path = folder / "train.bin"
    np.array(tokens, dtype=np.uint16).tofile(path)
    return path


def line_windows(path: Path, length: int, **others: Any) -> Windows:
    return Windows(path, length, start="line", **{"newline_ids": [NEWLINE], "pad_token_id": PAD} | others)


def refusal(path: Path, length: int = 4, **others: Any) -> str:
    with pytest.raises(DataError) as caught:
        Windows(path, length, **others)
    return str(caught.value)


def drawn(windows: Windows, rows: int = 500) -> set[tuple[tuple[int, ...], int]]:
    """Return the different rows of a large draw, each with its length."""
    tokens, lengths = windows.draw(rows, seeded(1))
    return {(tuple(row), size) for row, size in zip(tokens.tolist(), lengths.tolist(), strict=True)}


def expected_lines(tokens: list[int], length: int) -> set[tuple[tuple[int, ...], int]]:
    """Return the rows that line windows may give, made with loops over lists."""
    lines: list[list[int]] = [[]]
    for token in tokens:
        lines[-1].append(token)
        if token == NEWLINE:
            lines.append([])
    lines = [line for line in lines if line]
    rows = set()
    for number, line in enumerate(lines):
        if line == [NEWLINE]:
            continue
        row = line[:length]
        for following in lines[number + 1 :]:
            if len(line) > length or len(row) + len(following) > length:
                break
            row = row + following
        rows.add((tuple(row + [PAD] * (length - len(row))), len(row)))
    return rows


# anywhere


def test_anywhere_is_everywhere_that_fits(tmp_path: Path) -> None:
    windows = Windows(write(tmp_path, list(range(20))), 16)

    tokens, lengths = windows.draw(500, seeded(0))

    assert set(tokens[:, 0].tolist()) == {0, 1, 2, 3, 4}
    assert torch.equal(tokens - tokens[:, :1], torch.arange(16).expand(500, 16))
    assert lengths.tolist() == [16] * 500
    for tensor in (tokens, lengths):
        assert tensor.dtype == torch.int64 and tensor.device == torch.device("cpu")


def test_starts_are_evenly_likely(tmp_path: Path) -> None:
    tokens, _ = Windows(write(tmp_path, list(range(10))), 1).draw(20_000, seeded(0))

    counts = torch.bincount(tokens[:, 0], minlength=10)
    assert (abs(counts - 2000) < 3 * (20_000 * 0.09) ** 0.5).all()


def test_a_file_of_one_window(tmp_path: Path) -> None:
    assert drawn(Windows(write(tmp_path, [5, 6, 7]), 3)) == {((5, 6, 7), 3)}


def test_large_ids_keep_their_sign(tmp_path: Path) -> None:
    assert drawn(Windows(write(tmp_path, [65535] * 4), 2)) == {((65535, 65535), 2)}


# paragraphs


def test_paragraphs_start_at_two_newlines(tmp_path: Path) -> None:
    """Not the first token of the file; the first two of three newlines are starts; a complete window must fit."""
    tokens = [0, 0, 1, 2, 0, 3, 0, 0, 4, 5, 0, 0, 0, 6, 7, 8, 0, 0, 9]
    windows = Windows(write(tmp_path, tokens), 4, start="paragraph", newline_ids=[NEWLINE])

    assert drawn(windows) == {((0, 0, 4, 5), 4), ((0, 0, 0, 6), 4), ((0, 0, 6, 7), 4)}


def test_a_paragraph_at_the_very_end_fits(tmp_path: Path) -> None:
    windows = Windows(write(tmp_path, [1, 0, 0, 2, 3]), 4, start="paragraph", newline_ids=[NEWLINE])

    assert drawn(windows) == {((0, 0, 2, 3), 4)}


def test_several_tokens_may_be_newlines(tmp_path: Path) -> None:
    path = write(tmp_path, [1, 198, 628, 2, 198, 3, 628, 198, 4, 5])

    assert drawn(Windows(path, 3, start="paragraph", newline_ids=(198, 628))) == {
        ((198, 628, 2), 3),
        ((628, 198, 4), 3),
    }


@pytest.mark.parametrize("tokens", [[1, 2, 0, 3, 0, 4], [0, 0, 1, 2, 3, 4], [1, 2, 3, 4, 0, 0]])
def test_a_file_without_paragraphs_is_refused(tmp_path: Path, tokens: list[int]) -> None:
    path = write(tmp_path, tokens)

    message = refusal(path, start="paragraph", newline_ids=[NEWLINE])
    assert message.startswith(f"{path} has no start position: wanted two newlines with 4 tokens from there on")


# lines


def test_rows_of_lines_are_complete_lines_and_padding(tmp_path: Path) -> None:
    windows = line_windows(write(tmp_path, [1, 2, 0, 3, 0, 0, 4, 5, 6, 0, 7]), 5)

    assert drawn(windows) == {
        ((1, 2, 0, 3, 0), 5),
        ((3, 0, 0, PAD, PAD), 3),
        ((4, 5, 6, 0, 7), 5),
        ((7, PAD, PAD, PAD, PAD), 1),
    }


def test_a_line_longer_than_the_window_is_cut(tmp_path: Path) -> None:
    windows = line_windows(write(tmp_path, [1, 2, 3, 4, 5, 0, 6, 0]), 3)

    assert drawn(windows) == {((1, 2, 3), 3), ((6, 0, PAD), 2)}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tokens=st.lists(st.sampled_from([0, 0, 1, 2, 3]), min_size=1, max_size=30).filter(any),
    length=st.integers(1, 12),
    chunk=st.sampled_from([1, 3, 1000]),
)
def test_lines_equal_a_loop(tmp_path: Path, tokens: list[int], length: int, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data.windows, "SCANNED_TOKENS", chunk)  # files larger than this are scanned in parts
        windows = line_windows(write(tmp_path, tokens), length)

    assert drawn(windows, 1000) == expected_lines(tokens, length)


def test_a_file_of_empty_lines_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, [0, 0, 0])

    message = refusal(path, start="line", newline_ids=[NEWLINE], pad_token_id=PAD)
    assert message.startswith(f"{path} has no start position: wanted a line that is not empty")


# draws


@pytest.mark.parametrize("start", ["anywhere", "paragraph", "line"])
def test_draws_come_from_the_generator_alone(tmp_path: Path, start: str) -> None:
    path = write(tmp_path, [1, 2, 0, 0, 3, 0, 0, 4, 5, 6, 0, 0, 7, 8, 9] * 20)
    windows = Windows(path, 6, start=start, newline_ids=[NEWLINE], pad_token_id=PAD)
    state = torch.get_rng_state()

    one, other, different = (windows.draw(8, seeded(seed))[0] for seed in (1, 1, 2))

    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, other) and not torch.equal(one, different)


def test_a_draw_is_a_copy(tmp_path: Path) -> None:
    path = write(tmp_path, [1, 2, 3, 4])
    windows = Windows(path, 4)
    before = path.read_bytes()

    tokens, lengths = windows.draw(2, seeded(0))
    tokens.zero_(), lengths.zero_()

    assert path.read_bytes() == before
    assert drawn(windows) == {((1, 2, 3, 4), 4)}


def test_a_draw_of_no_rows(tmp_path: Path) -> None:
    tokens, lengths = Windows(write(tmp_path, [1, 2, 3, 4]), 3).draw(0, seeded(0))

    assert tokens.shape == (0, 3) and lengths.shape == (0,)


def test_no_memory_map_is_kept(tmp_path: Path) -> None:
    path = write(tmp_path, [1, 0, 0, 2, 3] * 10)
    windows = line_windows(path, 4)
    windows.draw(4, seeded(0))

    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc here")
    assert str(path) not in maps.read_text()


# files and arguments that cannot be used


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "train.bin").startswith(f"no data at {tmp_path}/train.bin: ")


def test_a_file_of_odd_size_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.bin").write_bytes(b"\0" * 101)

    assert "train.bin has 101 bytes, which is odd" in refusal(tmp_path / "train.bin")


@pytest.mark.parametrize("start", ["anywhere", "paragraph"])
def test_a_file_shorter_than_a_window_is_named(tmp_path: Path, start: str) -> None:
    path = write(tmp_path, [1, 0, 0])

    message = refusal(path, start=start, newline_ids=[NEWLINE])
    assert message == f"{path} has 3 tokens, wanted 4 or more: use more text or a smaller block_size"


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, []), start="line", newline_ids=[NEWLINE], pad_token_id=PAD)

    assert "train.bin has 0 tokens, wanted 1 or more" in message


def test_a_file_that_shrinks_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path, [1] * 100)
    windows = Windows(path, 50)
    write(tmp_path, [1] * 10)

    with pytest.raises(DataError, match=r"train\.bin has become shorter since the run began"):
        windows.draw(4, seeded(0))


@pytest.mark.parametrize("start", ["anywhere", "paragraph", "line"])
def test_an_id_outside_the_vocabulary_is_found(tmp_path: Path, start: str) -> None:
    """The padding, 99, is outside the vocabulary of the text, and no error."""
    tokens = [1, 2, 0, 0, 3, 0, 0, 4, 5, 6, 0, 0, 7, 8, 9] * 4
    file = TokenFile(write(tmp_path, tokens))
    windows = Windows(file, 6, start=start, newline_ids=[NEWLINE], pad_token_id=PAD)
    file.check_vocab(10)
    windows.draw(50, seeded(0))
    tokens[52] = 10
    write(tmp_path, tokens)

    with pytest.raises(DataError, match=r"train\.bin holds token id 10, at position 52, .* ids below 10"):
        windows.draw(50, seeded(0))


@pytest.mark.parametrize("start", ["anywhere", "paragraph", "line"])
def test_rows_of_four_byte_ids(tmp_path: Path, start: str) -> None:
    tokens = [1, 2, 0, 0, 3, 0, 0, 4, 5, 6, 0, 0, 7, 8, 9] * 4
    options: dict[str, Any] = {"start": start, "newline_ids": [NEWLINE], "pad_token_id": PAD}
    narrow = Windows(write(tmp_path, tokens), 6, **options)
    (tmp_path / "wide").mkdir()
    write_meta(tmp_path / "wide" / "meta.pkl", {"vocab_size": 100_000})
    np.array([token + 70_000 if token else 0 for token in tokens], np.uint32).tofile(tmp_path / "wide" / "train.bin")
    wide = Windows(tmp_path / "wide" / "train.bin", 6, **options)

    (rows, sizes), (wide_rows, wide_sizes) = (windows.draw(50, seeded(0)) for windows in (narrow, wide))

    assert torch.equal(sizes, wide_sizes)
    assert torch.equal(rows.where((rows == 0) | (rows == PAD), rows + 70_000), wide_rows)


def test_large_ids_may_be_newlines(tmp_path: Path) -> None:
    write_meta(tmp_path / "meta.pkl", {"vocab_size": 100_000})
    np.array([1, 2, 90_000, 90_000, 3, 4], np.uint32).tofile(tmp_path / "train.bin")
    windows = Windows(tmp_path / "train.bin", 3, start="paragraph", newline_ids=[90_000])

    assert drawn(windows) == {((90_000, 90_000, 3), 3)}


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"start": "word"}, "'word', wanted one of anywhere, paragraph, line"),
        ({"start": "paragraph"}, "start at a paragraph need a newline"),
        ({"start": "line", "pad_token_id": PAD}, "start at a line need a newline"),
        ({"start": "line", "newline_ids": [NEWLINE]}, "need a padding token"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(tmp_path: Path, others: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Windows(write(tmp_path, [1, 0, 0, 2, 3]), 2, **others)
