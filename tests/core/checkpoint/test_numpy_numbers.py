"""NumPy's numbers in checkpoint files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.checkpoint.format import load_checkpoint
from core.checkpoint.numpy_numbers import NumberType, number
from core.errors import CheckpointError

NAMES = ["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", ">f4", ">i8"]


def reloaded(path: Path, value: Any) -> Any:
    """Return a value that was saved among those of a checkpoint, as it is read again."""
    torch.save({"model": {}, "model_args": {}, "value": value}, path)
    return load_checkpoint(path)["value"]


@pytest.mark.parametrize("name", NAMES)
def test_a_numpy_number_is_read_as_the_equal_python_number(tmp_path: Path, name: str) -> None:
    value = np.array([1.5 if "f" in name else 1]).astype(name)[0]

    read = reloaded(tmp_path / "ckpt.pt", [value])

    assert read == [value.item()] and type(read[0]) is type(value.item())


def test_numbers_of_a_big_endian_machine_are_read() -> None:
    """NumPy's own scalars have the order of their machine, so that no test file of this one holds them."""
    kind = NumberType("f4", False, True)
    kind.__setstate__((3, ">", None, None, None, -1, -1, 0))

    assert number(kind, np.array(1.5, ">f4").tobytes()) == 1.5
    assert number(NumberType("f4"), np.array(1.5, "<f4").tobytes()) == 1.5


def test_numpy_numbers_are_read_wherever_they_are(tmp_path: Path) -> None:
    value = {"best_val_loss": np.float64(2.25), "config": {"learning_rate": np.float32(0.5), "sizes": [np.int64(7)]}}

    read = reloaded(tmp_path / "ckpt.pt", value)

    assert read == {"best_val_loss": 2.25, "config": {"learning_rate": 0.5, "sizes": [7]}}
    assert type(read["best_val_loss"]) is float


@pytest.mark.parametrize(
    "value", [np.zeros(3), np.complex128(1j), np.str_("text"), np.datetime64("2024-01-01"), np.longdouble(1)]
)
def test_other_values_of_numpy_are_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(CheckpointError, match="holds more than tensors and plain values"):
        reloaded(tmp_path / "ckpt.pt", value)


def test_reading_a_checkpoint_leaves_torchs_list_of_safe_globals_unchanged(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    reloaded(tmp_path / "ckpt.pt", np.float64(1))

    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_the_names_of_numpy_1_and_of_numpy_2_are_read(tmp_path: Path, module: bytes) -> None:
    path = tmp_path / "ckpt.pt"
    content = {"model": {}, "model_args": {}, "value": np.float64(2.5)}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", module))

    assert load_checkpoint(path)["value"] == 2.5


def test_bytes_of_the_wrong_length_are_an_error() -> None:
    with pytest.raises(Exception, match="requires a buffer of 8 bytes"):
        number(NumberType("f8", False, True), b"1234")
