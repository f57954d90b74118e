"""TokenFile: 2 and 4 bytes per id, what is refused, and ids outside the vocabulary wherever they are."""

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import data.token_file
from core.errors import DataError
from data.meta import write_meta
from data.token_file import TokenFile, token_dtype

IDS = np.arange(1200) % 9 + 1  # 1 to 9, never 0
CHARS = {"vocab_size": 12, "itos": dict(enumerate("\nabcdefghijk"))}


def write(folder: Path, ids: Any, dtype: Any = np.uint16, meta: dict[str, Any] | None = None) -> Path:
    path = folder / "train.bin"
    np.asarray(ids).astype(dtype).tofile(path)
    if meta is not None:
        write_meta(folder / "meta.pkl", meta)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        TokenFile(path)
    return str(caught.value)


# the width of ids


@pytest.mark.parametrize(
    ("meta", "wanted"),
    [
        ({}, np.uint16),
        ({"vocab_size": 65_536}, np.uint16),
        ({"vocab_size": 65_537}, np.uint32),
        ({"vocab_size": 12, "dtype": "uint32"}, np.uint32),
        ({"vocab_size": 12, "dtype": "<u4"}, np.uint32),
        ({"vocab_size": 12, "dtype": "np.uint32"}, np.uint32),
        ({"vocab_size": 12, "dtype": "torch.int32"}, np.uint32),
        ({"vocab_size": 12, "dtype": "<class 'numpy.uint32'>"}, np.uint32),
        ({"vocab_size": 100_277, "dtype": "uint16"}, np.uint16),
        ({"vocab_size": 100_277, "dtype": "int16"}, np.uint16),
    ],
)
def test_the_width_comes_from_dtype_or_the_vocabulary(meta: dict[str, Any], wanted: type) -> None:
    assert token_dtype(meta, Path("meta.pkl")) == np.dtype(wanted)


@pytest.mark.parametrize("dtype", ["int64", "uint8", "float32", ">u4"])
def test_a_type_that_is_not_read_is_refused(dtype: str) -> None:
    assert token_dtype({"dtype": None}, Path("meta.pkl")) == np.uint16
    with pytest.raises(DataError, match=r"^meta\.pkl: dtype is .*, wanted uint16 or uint32: convert the token files, "):
        token_dtype({"vocab_size": 12, "dtype": dtype}, Path("meta.pkl"))


@pytest.mark.parametrize("dtype", ["words", "object", 7, {7: b"x"}, "(3,2)u2", ["u2"], "U" + "9" * 5000, "é"])
def test_a_dtype_that_is_no_type_of_numbers_is_refused(dtype: Any) -> None:
    with pytest.raises(
        DataError, match=r"^meta\.pkl: dtype is .{2,50}, wanted uint16 or uint32: name the type of the "
    ):
        token_dtype({"vocab_size": 12, "dtype": dtype}, Path("meta.pkl"))


def test_ids_of_four_bytes_are_read(tmp_path: Path) -> None:
    ids = np.tile([70_001, 90_002, 100_003], 400)
    file = TokenFile(write(tmp_path, ids, np.uint32, {"vocab_size": 100_277}))
    file.check_vocab(100_277)

    assert len(file) == 1200 and file.dtype == np.uint32
    assert file.read([0, 4], [3, 2]).tolist() == [70_001, 90_002, 100_003, 90_002, 100_003]
    assert file.map().tolist() == ids.tolist()


def test_small_ids_of_four_bytes_are_read_where_meta_says_so(tmp_path: Path) -> None:
    file = TokenFile(write(tmp_path, IDS, np.int32, {**CHARS, "dtype": "int32"}))

    assert file.read([0], [5]).tolist() == [1, 2, 3, 4, 5]


def test_a_declared_type_keeps_a_file_that_looks_wide(tmp_path: Path) -> None:
    path = write(tmp_path, IDS, np.int32, {"vocab_size": 12, "dtype": "uint16"})

    assert TokenFile(path).read([0], [4]).tolist() == [1, 0, 2, 0]


# what is refused


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (np.int64, "8-byte integers (int64)"),
        (">i8", "8-byte integers in big-endian order"),
        (np.float64, "float64 numbers"),
        (np.uint32, "4-byte integers (int32 or uint32)"),
        (np.int32, "4-byte integers (int32 or uint32)"),
        (">u4", "4-byte integers in big-endian order"),
        (np.float32, "float32 numbers"),
    ],
)
@pytest.mark.parametrize("meta", [{"vocab_size": 12}, None])
def test_numbers_of_another_format_are_refused(tmp_path: Path, dtype: Any, name: str, meta: dict[str, Any]) -> None:
    path = write(tmp_path, IDS, dtype, meta)

    message = refusal(path)
    assert message.startswith(f"{path} looks like {name}, wanted uint16 token ids: convert it with `python -c ")
    exec(message.split('python -c "')[1].split('"`')[0])
    assert np.fromfile(path, np.uint16).tolist() == IDS.tolist()
    TokenFile(path)


def test_wide_characters_are_refused(tmp_path: Path) -> None:
    """The newline, id 0, occurs among the ids, so the zeros in between are no newlines."""
    text = np.where(np.arange(3000) % 17 == 0, 0, np.arange(3000) % 11 + 1)

    for dtype in (np.int32, np.int64):
        assert "looks like" in refusal(write(tmp_path, text, dtype, CHARS))


def test_one_character_per_line_trains_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="coregpt"):
        TokenFile(write(tmp_path, np.stack([IDS, 0 * IDS], 1), meta=CHARS))

    (message,) = caplog.messages
    assert message.startswith(f"every second id of {tmp_path / 'train.bin'} is 0. If it holds 4-byte integers")
    assert message.endswith(f"if it is right as it is, write 'dtype': 'uint16' into {tmp_path / 'meta.pkl'}")


@pytest.mark.parametrize(
    "ids",
    [
        np.random.default_rng(0).integers(0, 50257, 4000),
        np.random.default_rng(0).integers(0, 2, 4000),
        [0, 1] * 1000,
        [7] * 1000,
        [0] * 1000,
        [0] * 5000 + [3, 4, 5, 6],
        np.frombuffer(b"To be, or not to be\n" * 100, np.uint8),
    ],
)
@pytest.mark.parametrize("meta", [None, {"vocab_size": 50_257}])
def test_legitimate_files_are_read_without_a_word(
    tmp_path: Path, ids: Any, meta: dict[str, Any] | None, caplog: pytest.LogCaptureFixture
) -> None:
    file = TokenFile(write(tmp_path, ids, meta=meta))
    file.check_vocab(50_257)

    assert file.map().tolist() == list(ids) and not caplog.messages


def test_big_endian_ids_without_meta_are_refused(tmp_path: Path) -> None:
    assert "2-byte integers in big-endian order" in refusal(write(tmp_path, IDS, ">u2"))
    TokenFile(write(tmp_path, IDS * 256, meta={"vocab_size": 4096}))  # steps of 256 in a vocabulary of its own


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"<html>" + b"x" * 9, "is a web page"),
        ("".join(map(str, range(999))).encode(), "is text"),
    ],
)
def test_a_file_of_another_kind_is_named_before_its_size(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / "train.bin").write_bytes(content)

    assert refusal(tmp_path / "train.bin").startswith(f"{tmp_path / 'train.bin'} {name}, wanted uint16 token ids: ")


def test_text_in_pairs_of_bytes_may_be_declared_to_be_ids(tmp_path: Path) -> None:
    text = "".join(map(str, range(998))).encode()
    (tmp_path / "train.bin").write_bytes(text)
    assert "if it is right as it is, write 'vocab_size' and 'dtype': 'uint16' into" in refusal(tmp_path / "train.bin")

    write_meta(tmp_path / "meta.pkl", {"vocab_size": 65_536, "dtype": "uint16"})
    assert TokenFile(tmp_path / "train.bin").map().tobytes() == text


def test_four_byte_files_have_a_multiple_of_four_bytes(tmp_path: Path) -> None:
    path = write(tmp_path, [1] * 5, np.uint16, {"vocab_size": 70_000})

    assert "train.bin has 10 bytes, which is no multiple of 4: not a file of 4-byte tokens" in refusal(path)


# ids outside the vocabulary


def message_of_check(file: TokenFile, vocab_size: int) -> str:
    with pytest.raises(DataError) as caught:
        file.check_vocab(vocab_size)
    return str(caught.value)


def test_the_first_id_outside_is_named_with_its_position(tmp_path: Path) -> None:
    ids = IDS.copy()
    ids[[700, 800]] = 60, 99
    path = write(tmp_path, ids)

    message = message_of_check(TokenFile(path), 50)
    assert message.startswith(f"{path} holds token id 60, at position 700, but the model has ids below 50: ")


@pytest.mark.parametrize(("starts", "sizes"), [([5, 690, 0], [20, 20, 20]), ([700], [1]), ([0, 600, 3], [9, 101, 0])])
def test_an_id_outside_is_found_in_every_crop(tmp_path: Path, starts: list[int], sizes: list[int]) -> None:
    path = write(tmp_path, IDS)
    file = TokenFile(path)
    file.check_vocab(50)
    file.read(starts, sizes)
    ids = IDS.copy()
    ids[700] = 50
    write(tmp_path, ids)

    with pytest.raises(DataError, match=r"train\.bin holds token id 50, at position 700, .* ids below 50"):
        file.read(starts, sizes)
    assert TokenFile(path).read([699], [3]).tolist() == [7, 50, 9]  # without a vocabulary nothing is checked


def test_the_check_at_the_start_samples_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SCANNED_TOKENS": 100, "SCAN_STEP": 30, "SAMPLES": 3, "SAMPLE_TOKENS": 10}.items():
        monkeypatch.setattr(data.token_file, name, value)
    for position in (0, 29, 30, 99, 100, 109, 645, 1190, 1199):
        ids = IDS.copy()
        ids[position] = 50
        assert f"at position {position:,}, " in message_of_check(TokenFile(write(tmp_path, ids)), 50)
    for position in (110, 1189):
        ids = IDS.copy()
        ids[position] = 50
        TokenFile(write(tmp_path, ids)).check_vocab(50)
    TokenFile(write(tmp_path, IDS[:105])).check_vocab(50)


@pytest.mark.parametrize(
    ("dtype", "vocab_size", "remedy"),
    [
        (">u2", 50_257, "2-byte integers in big-endian order, wanted uint16: convert it with"),
        (np.uint32, 100_277, r"4-byte integers .*, wanted uint16: write 'vocab_size' and 'dtype': 'uint32' into"),
        (np.int64, 100_277, r"8-byte integers .*, wanted uint16: convert it .*uint32.*, and write 'vocab_size' and"),
    ],
)
def test_ids_outside_may_show_another_format(tmp_path: Path, dtype: Any, vocab_size: int, remedy: str) -> None:
    path = write(tmp_path, np.random.default_rng(0).integers(0, vocab_size, 4000), dtype)

    with pytest.raises(DataError, match=f"holds token id .* the file looks like {remedy}"):
        TokenFile(path).check_vocab(50_304)


def test_two_byte_ids_of_a_large_vocabulary_are_recognized(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 50_257, 4000)
    file = TokenFile(write(tmp_path, ids, np.uint16, {"vocab_size": 100_277}))

    assert message_of_check(file, 100_277).endswith(f"write 'dtype': 'uint16' into {tmp_path / 'meta.pkl'}")


@pytest.mark.parametrize("meta", [None, {"vocab_size": 65}])
def test_ids_of_one_byte_are_named(tmp_path: Path, meta: dict[str, Any] | None) -> None:
    ids = np.random.default_rng(0).integers(0, 65, 4000)
    path = write(tmp_path, ids, np.uint8, meta)

    message = message_of_check(TokenFile(path), 65) if meta else refusal(path)
    assert "looks like 1-byte integers (uint8), wanted uint16" in message
    exec(message.split('python -c "')[1].split('"`')[0])
    assert np.fromfile(path, np.uint16).tolist() == ids.tolist()
    TokenFile(path).check_vocab(65)


def test_wrong_ids_among_those_of_bytes_are_not_of_one_byte(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 256, 4000)
    ids[77] = 300
    file = TokenFile(write(tmp_path, ids, np.uint16, {"vocab_size": 256}))
    assert "another tokenizer" in message_of_check(file, 256)


def test_a_single_wrong_id_is_no_other_format(tmp_path: Path) -> None:
    for dtype, vocab_size in ((np.uint16, 50_257), (np.uint32, 100_277)):
        ids = np.random.default_rng(0).integers(0, vocab_size, 4000)
        ids[77] = vocab_size
        file = TokenFile(write(tmp_path, ids, dtype, {"vocab_size": vocab_size}))
        assert "another tokenizer" in message_of_check(file, vocab_size)


# files that change


def test_a_file_that_vanishes_or_shrinks_is_one_message(tmp_path: Path) -> None:
    path = write(tmp_path, IDS)
    file = TokenFile(path)
    os.truncate(path, 200)
    with pytest.raises(DataError, match=r"train\.bin has become shorter since the run began"):
        file.read([90], [20])
    path.unlink()
    for fails in (lambda: file.read([0], [1]), lambda: len(file)):
        with pytest.raises(DataError, match=r"cannot read .*train\.bin \(No such file .*make the file readable again"):
            fails()


def test_a_file_that_grows_is_read_as_far_as_it_is_complete(tmp_path: Path) -> None:
    path = write(tmp_path, IDS)
    file = TokenFile(path)
    with open(path, "ab") as out:
        out.write(b"\5\0\6")

    assert len(file) == 1201 and file.read([1200], [1]).tolist() == [5]


def test_a_file_that_cannot_be_opened_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: Path) -> list[bytes]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(data.token_file, "read_blocks", deny)  # the tests may run as root, who may read everything

    assert "train.bin (Permission denied): make the file readable" in refusal(write(tmp_path, IDS))


# missing files


def test_a_missing_file_names_a_similar_one(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "validation.bin").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "train.bin").touch()

    message = refusal(folder / "val.bin")
    assert message == (
        f"no data at {folder}/val.bin: {folder} has validation.bin: rename that if it is meant, "
        "or set dataset to one of: other"
    )
    (folder / "prepare.py").touch()
    assert refusal(folder / "val.bin").endswith(f"rename that if it is meant, or run `python {folder}/prepare.py`")


def test_shards_of_numpy_and_the_path_of_a_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "shard_train_000001.npy").touch()

    message = refusal(tmp_path / "mine" / "train.bin")
    assert message.endswith(f"{tmp_path}/mine has shard_train_000001.npy: rename that if it is meant")
    path = write(tmp_path, IDS)
    assert refusal(path / "train.bin").endswith(f"{path} is a file: give the folder that it is in")


@pytest.mark.parametrize("name", ["valid.bin", "VAL.BIN", "test.bin", "dev.bin"])
def test_half_a_data_set_names_the_other_token_file(name: str, tiny_bins: Path) -> None:
    (tiny_bins.parent / "other").mkdir()
    (tiny_bins.parent / "other" / "train.bin").touch()
    (tiny_bins / "val.bin").rename(tiny_bins / name)

    start = f"no data at {tiny_bins}/val.bin: "
    assert refusal(tiny_bins / "val.bin") == f"{start}{tiny_bins} has {name}: rename that if it is meant"
    (tiny_bins / name).unlink()
    assert refusal(tiny_bins / "val.bin") == f"{start}prepare the data set again"


def test_what_is_no_file_is_named(tiny_bins: Path) -> None:
    """Reading a pipe would wait for ever, and without its vocabulary a data set would be one of GPT-2's tokens."""
    (tiny_bins / "val.bin").unlink()
    os.mkfifo(tiny_bins / "val.bin")
    (tiny_bins / "meta.pkl").unlink()
    (tiny_bins / "meta.pkl").symlink_to("nowhere")

    assert refusal(tiny_bins / "val.bin").startswith(f"{tiny_bins}/val.bin is a named pipe, in place of token ids: ")
    assert refusal(tiny_bins / "train.bin").startswith(
        f"cannot read {tiny_bins}/meta.pkl (it is a symbolic link to nowhere, where there is no file): make it again"
    )


def test_a_missing_data_set_names_a_similar_one(tmp_path: Path) -> None:
    for name in ("letters", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.bin").touch()

    message = refusal(tmp_path / "leters" / "train.bin")
    assert message.endswith("set dataset to one of: letters, other; did you mean letters?")
    assert refusal(tmp_path / "quite_another" / "train.bin").endswith("set dataset to one of: letters, other")
