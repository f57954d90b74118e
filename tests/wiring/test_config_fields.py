"""The fields of config classes as people write them, and their types as options."""

import dataclasses
import enum
from collections.abc import Callable
from typing import Any, ClassVar, List, Literal, NamedTuple, Optional, Tuple  # noqa: UP035 (as people write them)

import pytest
import torch

from wiring.config_fields import REQUIRED, ConfigField, config_fields, is_plain, takes_any


class Norm(enum.Enum):
    """A kind of normalization."""

    RMS = "rms"


@dataclasses.dataclass
class Base:
    """A field of a base class."""

    eps: "float" = 1e-5


@dataclasses.dataclass
class Fork(Base):
    """Fields of every kind."""

    n_layer: int = 2
    n_kv_head: int = dataclasses.field(kw_only=True)
    use_rope: bool = True
    norm: str = "rms"
    late: int = None  # type: ignore[assignment]
    ratio: Optional[float] = None  # noqa: UP045
    theta: float = 10000
    inner: int = 2.5  # type: ignore[assignment]
    switch: bool = 0  # type: ignore[assignment]
    windows: List[int] = dataclasses.field(default_factory=lambda: [4, 8])  # noqa: UP006
    pair: Tuple[int, ...] = (1, 2)  # noqa: UP006
    table: dict = dataclasses.field(default_factory=dict)  # type: ignore[type-arg]
    act: Literal["gelu", "relu"] = "gelu"
    unknown: "Undefined" = 3  # type: ignore[name-defined]  # noqa: F821
    dtype: torch.dtype = torch.float32
    function: Optional[Callable[..., Any]] = None  # noqa: UP045
    kind: Norm = Norm.RMS
    CONSTANT: ClassVar[int] = 3
    derived: int = dataclasses.field(default=0, init=False)


FIELDS = {
    "eps": (float, 1e-5),
    "n_layer": (int, 2),
    "n_kv_head": (int, REQUIRED),
    "use_rope": (bool, True),
    "norm": (str, "rms"),
    "late": (int | None, None),
    "ratio": (float | None, None),
    "theta": (float, 10000),
    "inner": (int | float, 2.5),
    "switch": (bool | int, 0),
    "windows": (
        List[int],  # noqa: UP006
        [4, 8],
    ),
    "pair": (
        Tuple[int, ...],  # noqa: UP006
        (1, 2),
    ),
    "table": (dict, {}),
    "act": (Literal["gelu", "relu"], "gelu"),
    "unknown": (int, 3),
    "dtype": (None, torch.float32),
    "function": (None, None),
    "kind": (None, Norm.RMS),
}


def test_a_dataclass_has_the_fields_of_its_constructor_with_types() -> None:
    assert config_fields(Fork) == {name: ConfigField(*field) for name, field in FIELDS.items()}


class Plain:
    """Arguments of a constructor, with and without types."""

    def __init__(self, block_size, vocab_size: int = 5, use_moe=False, act=None) -> None:  # type: ignore[no-untyped-def]
        pass


class Open:
    """Takes any argument; its attributes are the defaults of the others."""

    embd_pdrop = 0.1
    _private = 1

    def __init__(self, vocab_size: int, **kwargs: Any) -> None:
        pass

    def method(self) -> None:
        """Do nothing."""


class Pair(NamedTuple):
    """A tuple."""

    width: int
    ratio: float = 2


def test_other_classes_have_the_arguments_of_their_constructor() -> None:
    assert config_fields(Plain) == {
        "block_size": (Any, REQUIRED), "vocab_size": (int, 5), "use_moe": (bool, False), "act": (Any, None),
    }  # fmt: skip
    assert config_fields(Open) == {"embd_pdrop": (float, 0.1), "vocab_size": (int, REQUIRED)}
    assert config_fields(Pair) == {"width": (int, REQUIRED), "ratio": (float, 2)}
    assert [takes_any(one) for one in (Fork, Plain, Open, Pair)] == [False, False, True, False]


@pytest.mark.parametrize(
    ("kind", "value", "takes"),
    [
        (int, False, True),
        (int, "auto", False),
        (str, False, False),
        (float, 3, True),
        (list, 3, False),
        (None, 3, False),
    ],
)
def test_a_field_takes_values_of_its_type_and_of_narrower_ones(kind: Any, value: Any, takes: bool) -> None:
    assert ConfigField(kind, REQUIRED).takes(value) is takes


def test_plain_values_are_numbers_texts_and_containers_of_them() -> None:
    assert is_plain({"a": [1, (2.0, None, True)]})
    assert not any(map(is_plain, (torch.float32, [torch.float32], {Norm.RMS: 1}, print, {1, 2})))
