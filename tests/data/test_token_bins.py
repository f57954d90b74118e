"""TokenBins: crops drawn as in nanoGPT, and clear errors about files that cannot be used."""

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.errors import DataError
from data.meta import write_meta
from data.token_bins import TokenBins

CPU = torch.device("cpu")


def bins(folder: Path, block_size: int = 16, batch_size: int = 4) -> TokenBins:
    return TokenBins(folder, block_size, batch_size)


def refusal(folder: Path, **sizes: int) -> str:
    with pytest.raises(DataError) as caught:
        bins(folder, **sizes)
    return str(caught.value)


# batches


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(("block_size", "batch_size"), [(16, 4), (1, 1), (100, 7)])
def test_batches_equal_an_independent_reading(tiny_bins: Path, split: str, block_size: int, batch_size: int) -> None:
    """One draw of batch_size start positions per batch, anywhere that leaves room for the target of the last token."""
    source = bins(tiny_bins, block_size, batch_size)
    tokens = np.fromfile(tiny_bins / f"{split}.bin", dtype=np.uint16).astype(int).tolist()

    torch.manual_seed(5)
    batches = [source.get_batch(split) for _ in range(3)]
    after = torch.get_rng_state()

    torch.manual_seed(5)
    for inputs, targets in batches:
        starts = torch.randint(len(tokens) - block_size, (batch_size,)).tolist()
        assert inputs.tolist() == [tokens[start : start + block_size] for start in starts]
        assert targets.tolist() == [tokens[start + 1 : start + 1 + block_size] for start in starts]
    assert torch.equal(torch.get_rng_state(), after)


def test_targets_are_the_inputs_shifted_by_one(tiny_bins: Path) -> None:
    inputs, targets = bins(tiny_bins).get_batch("train")

    assert inputs.shape == targets.shape == (4, 16)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    for tensor in (inputs, targets):
        assert tensor.dtype == torch.int64 and tensor.device == CPU and tensor.is_contiguous()


def test_every_position_is_reached_and_none_beyond(tmp_path: Path) -> None:
    for split in ("train", "val"):
        np.arange(20, dtype=np.uint16).tofile(tmp_path / f"{split}.bin")

    inputs, targets = bins(tmp_path, block_size=15, batch_size=500).get_batch("train")

    assert set(inputs[:, 0].tolist()) == {0, 1, 2, 3, 4}
    assert targets.max() == 19


def test_a_batch_is_a_copy(tiny_bins: Path) -> None:
    source, before = bins(tiny_bins), (tiny_bins / "train.bin").read_bytes()

    inputs, _ = source.get_batch("train")
    inputs.zero_()

    assert (tiny_bins / "train.bin").read_bytes() == before
    assert source.get_batch("train")[0].any()


def test_large_ids_keep_their_sign(tmp_path: Path) -> None:
    for split in ("train", "val"):
        np.full(20, 65535, dtype=np.uint16).tofile(tmp_path / f"{split}.bin")

    assert bins(tmp_path).get_batch("val")[0].unique().tolist() == [65535]


# state


def test_the_starts_of_the_last_batch_are_known_by_split(tiny_bins: Path) -> None:
    source = bins(tiny_bins)
    assert source.starts == {} and source.state_dict() == {"starts": []}
    tokens = np.fromfile(tiny_bins / "train.bin", dtype=np.uint16).astype(int).tolist()

    source.get_batch("train")
    inputs, _ = source.get_batch("train")
    starts = source.state_dict()["starts"]
    source.get_batch("val")

    assert inputs.tolist() == [tokens[start : start + 16] for start in starts]
    assert source.state_dict() == {"starts": starts} and source.starts["train"] == starts
    assert len(source.starts["val"]) == 4 and source.starts["val"] != starts


def test_the_starts_are_restored_from_a_checkpoint(tiny_bins: Path, tmp_path: Path) -> None:
    source, other = bins(tiny_bins), bins(tiny_bins)
    source.get_batch("train")
    torch.save(source.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))

    assert other.starts == {"train": source.starts["train"]}


def test_a_fingerprint_depends_on_the_contents_and_not_the_folder(tiny_bins: Path, tmp_path: Path) -> None:
    found = bins(tiny_bins).fingerprint()
    shutil.copytree(tiny_bins, tmp_path / "copy")

    assert len(found) == 16 and set(found) <= set("0123456789abcdef")
    assert bins(tmp_path / "copy", block_size=8, batch_size=2).fingerprint() == found
    for path in (tiny_bins / "train.bin", tiny_bins / "val.bin"):
        whole = path.read_bytes()
        for changed in (whole[:-2], whole + b"\0\0", whole[:100] + b"\1" + whole[101:], whole[:-1] + b"\1"):
            path.write_bytes(changed)
            assert bins(tiny_bins).fingerprint() != found
        path.write_bytes(whole)
    assert bins(tiny_bins).fingerprint() == found


def test_a_fingerprint_of_a_large_file_reads_samples_of_all_of_it(tiny_bins: Path) -> None:
    """Sparse files of 32 GB, too large to be read completely in a test."""
    size = 2**35
    with open(tiny_bins / "train.bin", "r+b") as file:
        file.truncate(size)
        found = bins(tiny_bins).fingerprint()
        for place in (2**20 - 1, size // 64 * 5 + 4095, size // 64 * 63, size - 2**20, size - 1):
            file.seek(place)
            file.write(b"\1")
            file.flush()
            now = bins(tiny_bins).fingerprint()
            assert now != found
            found = now


def test_a_fingerprint_depends_on_the_sizes(tiny_bins: Path) -> None:
    """The samples of the files are equal."""
    found = set()
    for name in ("train.bin", "val.bin"):
        for size in (2**24, 2**24 + 2):
            for path in (tiny_bins / "train.bin", tiny_bins / "val.bin"):
                path.write_bytes(b"")
                os.truncate(path, size if path.name == name else 2**23)
            found.add(bins(tiny_bins).fingerprint())

    assert len(found) == 4


# the vocabulary


def test_vocab_size_comes_from_meta(tiny_bins: Path) -> None:
    assert bins(tiny_bins).vocab_size == 17
    assert bins(tiny_bins).meta_path == tiny_bins / "meta.pkl"
    (tiny_bins / "meta.pkl").unlink()
    assert bins(tiny_bins).vocab_size is None


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_hostile_meta_is_refused_and_not_run(tiny_bins: Path, tmp_path: Path) -> None:
    content = pickle.dumps({"vocab_size": 17, "extra": Hostile(tmp_path / "made")})
    (tiny_bins / "meta.pkl").write_bytes(content)

    with pytest.raises(DataError, match=r"meta\.pkl is damaged or not plain data \(it asks for \w+\.mkdir"):
        _ = bins(tiny_bins).vocab_size
    assert not (tmp_path / "made").exists()
    pickle.loads(content)
    assert (tmp_path / "made").exists()  # the file was a dangerous one


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged"),
        (pickle.dumps({"vocab_size": 17})[:-4], "damaged"),
        (pickle.dumps([17]), "holds a list, wanted a dict"),
        (pickle.dumps({"stoi": {}}), "no vocab_size"),
        (pickle.dumps({"vocab_size": 0}), "vocab_size is 0"),
        (pickle.dumps({"vocab_size": "17"}), "vocab_size is '17'"),
    ],
)
def test_a_broken_meta_is_named(tiny_bins: Path, content: bytes, message: str) -> None:
    (tiny_bins / "meta.pkl").write_bytes(content)

    with pytest.raises(DataError, match=rf"meta\.pkl.*{message}.*: make it again"):
        _ = bins(tiny_bins).vocab_size


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_id_beyond_the_vocabulary_is_found(tiny_bins: Path, split: str) -> None:
    source, path = bins(tiny_bins), tiny_bins / f"{split}.bin"
    source.check_vocab(17)
    tokens = np.fromfile(path, dtype=np.uint16)
    tokens[-1] = 17
    tokens.tofile(path)

    source.check_vocab(18)
    with pytest.raises(
        DataError,
        match=rf"{split}\.bin holds token id 17, at position [\d,]+, but the model has ids below 17: .*meta\.pkl",
    ):
        source.check_vocab(17)


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_id_that_comes_into_the_file_later_is_found(tiny_bins: Path, split: str) -> None:
    """As behind the part that `check_vocab` reads; no draw order changes, and the other split still works."""
    source, path = bins(tiny_bins), tiny_bins / f"{split}.bin"
    source.check_vocab(17)
    np.full(path.stat().st_size // 2, 60, np.uint16).tofile(path)

    with pytest.raises(DataError, match=rf"{split}\.bin holds token id 60, at position [\d,]+, .* ids below 17"):
        source.get_batch(split)
    source.get_batch("val" if split == "train" else "train")


def test_batches_of_four_byte_ids(tmp_path: Path) -> None:
    for split in ("train", "val"):
        np.tile(np.array([70001, 90002, 100003], np.uint32), 400).tofile(tmp_path / f"{split}.bin")
    write_meta(tmp_path / "meta.pkl", {"vocab_size": 100_277})
    source = bins(tmp_path)
    source.check_vocab(100_277)

    inputs, targets = source.get_batch("train")

    assert set(inputs.unique().tolist()) == {70001, 90002, 100003}
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert inputs[:, 0].tolist() == [[70001, 90002, 100003][start % 3] for start in source.starts["train"]]


def test_the_last_position_of_a_four_byte_file_is_reached(tmp_path: Path) -> None:
    for split in ("train", "val"):
        np.arange(70_000, 70_020, dtype=np.uint32).tofile(tmp_path / f"{split}.bin")
    write_meta(tmp_path / "meta.pkl", {"vocab_size": 70_020})

    inputs, targets = bins(tmp_path, block_size=15, batch_size=500).get_batch("train")

    assert set(inputs[:, 0].tolist()) == {70_000, 70_001, 70_002, 70_003, 70_004}
    assert targets.max() == 70_019


def test_a_file_that_shrinks_below_a_block_is_one_message(tiny_bins: Path) -> None:
    source = bins(tiny_bins)
    os.truncate(tiny_bins / "train.bin", 32)

    with pytest.raises(DataError, match=r"train\.bin has 16 tokens, wanted more than block_size=16"):
        source.get_batch("train")


# files that cannot be used


def test_a_missing_folder_names_those_there_are(tiny_bins: Path) -> None:
    elsewhere = tiny_bins.parent / "nowhere"

    assert refusal(elsewhere) == f"no data at {elsewhere}/train.bin: set dataset to one of: tiny"


def test_where_nothing_is_prepared_yet(tmp_path: Path) -> None:
    assert "none is prepared yet" in refusal(tmp_path / "data" / "nowhere")


@pytest.mark.parametrize("missing", ["train.bin", "val.bin"])
def test_an_unprepared_set_names_its_script(tiny_bins: Path, missing: str) -> None:
    (tiny_bins / "prepare.py").touch()
    (tiny_bins / missing).unlink()

    assert refusal(tiny_bins) == f"no data at {tiny_bins / missing}: run `python {tiny_bins}/prepare.py`"


@pytest.mark.parametrize("name", ["train.bin", "val.bin"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has 0 tokens, wanted more than block_size=16: use more text or a smaller block_size"),
        (b"\0" * 32, "has 16 tokens, wanted more than block_size=16: use more text or a smaller block_size"),
        (b"\0" * 101, "has 101 bytes, which is odd: not a file of 2-byte tokens"),
    ],
)
def test_a_file_that_is_no_data(tiny_bins: Path, name: str, content: bytes, message: str) -> None:
    (tiny_bins / name).write_bytes(content)

    assert refusal(tiny_bins).startswith(f"{tiny_bins / name} {message}")


def test_a_file_of_the_wrong_size_says_what_to_run(tiny_bins: Path) -> None:
    """The broken data set itself is not suggested."""
    (tiny_bins / "train.bin").write_bytes(b"abc")
    assert "tiny again" not in refusal(tiny_bins)

    (tiny_bins / "prepare.py").touch()
    assert refusal(tiny_bins).endswith(f"run `python {tiny_bins}/prepare.py` again")


def test_one_token_more_than_the_block_is_enough(tiny_bins: Path) -> None:
    np.arange(17, dtype=np.uint16).tofile(tiny_bins / "val.bin")

    inputs, targets = bins(tiny_bins).get_batch("val")

    assert inputs.tolist() == [list(range(16))] * 4 and targets.tolist() == [list(range(1, 17))] * 4


def test_a_folder_in_place_of_a_file(tiny_bins: Path) -> None:
    (tiny_bins / "val.bin").unlink()
    (tiny_bins / "val.bin").mkdir()

    assert refusal(tiny_bins) == f"{tiny_bins}/val.bin is a folder, in place of token ids: prepare the data set again"


def test_batches_can_be_made_on_a_device(tmp_path: Path) -> None:
    for split in ("train", "val"):
        np.arange(100, dtype=np.uint16).tofile(tmp_path / f"{split}.bin")
    inputs, targets = TokenBins(tmp_path, 8, 2, torch.device("meta")).get_batch("train")
    assert inputs.device.type == targets.device.type == "meta"
