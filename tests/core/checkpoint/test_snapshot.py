"""Snapshot: a copy that `torch.save` writes to the same bytes, in memory that is reused."""

import copy
import io
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from core.checkpoint.snapshot import Snapshot
from model import GPT

DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]
DTYPES += [torch.complex64, torch.int8, torch.float8_e4m3fn]


def saved(tree: Any) -> bytes:
    file = io.BytesIO()
    torch.save(tree, file)
    return file.getvalue()


def tensors(tree: Any) -> list[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else []
    return [tensor for part in parts for tensor in tensors(part)]


def addresses(tree: Any) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors(tree) if tensor.untyped_storage().nbytes()}


def views() -> dict[str, torch.Tensor]:
    base = torch.arange(24.0).reshape(2, 3, 4)
    return {
        "base": base,
        "part": base[1, 1:],
        "transposed": base.transpose(0, 2),
        "every other": base.flatten()[1::2],
        "expanded": torch.ones(1, 3).expand(5, 3),
        "one number": base[0, 0, 3],
        "a part alone": torch.arange(100)[40:50],  # torch saves its complete storage
    }


def of_every_dtype() -> list[torch.Tensor]:
    return [torch.arange(6).to(dtype).reshape(2, 3) for dtype in DTYPES]


def empty_ones() -> dict[str, Any]:
    return {
        "none": torch.empty(0),
        "rows": torch.empty(3, 0),
        "int": torch.empty(0, dtype=torch.long),
        "scalar": torch.tensor(1),
    }


def nested() -> dict[str, Any]:
    shared = {"lr": 0.1, "betas": (0.9, 0.95)}
    both = torch.ones(3)
    return {
        "groups": [shared, shared, {"params": [0, 1], "mixed": (both, [both, both.view(3, 1)], "text", None, 1.5)}],
        1: OrderedDict(b=torch.zeros(2), a=both),
        "plain": {"bytes": b"abc", "size": torch.Size([2, 3]), "dtype": torch.bfloat16, "device": torch.device("cpu")},
        "nothing": [[], (), {}],
        "default": defaultdict(list, {0: [torch.ones(1)]}),
    }


def state_dict_of_modules() -> dict[str, Any]:
    """Return a state_dict with batch norm's counters, and with `_metadata`."""
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).state_dict()


def state_of_adamw() -> dict[str, Any]:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


TREES: list[Callable[[], Any]] = [views, of_every_dtype, empty_ones, nested, state_dict_of_modules, state_of_adamw]
TREES += [lambda: torch.ones(3), lambda: {}, lambda: "no tensor at all"]


@pytest.mark.parametrize("make", TREES)
def test_the_bytes_are_those_of_the_original(make: Callable[[], Any]) -> None:
    tree = make()
    before = saved(tree)
    snapshot = Snapshot()

    for _ in range(3):
        copied = snapshot.take(tree)

        assert saved(copied) == before == saved(tree)
        assert not addresses(copied) & addresses(tree)


def test_the_bytes_of_a_gpts_checkpoint_are_those_of_the_original(tiny_model: GPT) -> None:
    """The head and the token embedding are one tensor, written once."""
    optimizer = tiny_model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cpu")
    tiny_model(torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long))[1].backward()
    optimizer.step()
    tree = {
        "model": tiny_model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "iter_num": 3,
        "rng": torch.get_rng_state(),
    }

    copied = Snapshot().take(tree)

    assert saved(copied) == saved(tree)
    tied = [copied["model"][name].untyped_storage().data_ptr() for name in ("lm_head.weight", "transformer.wte.weight")]
    assert tied[0] == tied[1] != tiny_model.lm_head.weight.data_ptr()
    assert copied["model"]._metadata == tree["model"]._metadata


@pytest.mark.parametrize("make", TREES[:6])
def test_the_copy_stays_as_it_was_when_the_original_changes(make: Callable[[], Any]) -> None:
    tree = make()
    before = saved(tree)

    copied = Snapshot().take(tree)
    for tensor in tensors(tree):
        if tensor.is_contiguous():
            tensor.copy_(torch.ones(()) - tensor.float() if not tensor.is_complex() else tensor + 1)
    if isinstance(tree, dict):
        tree["new"] = 1

    assert saved(copied) == before != saved(tree)


def test_an_optimizer_step_does_not_change_the_copy() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(2):
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    tree = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    before, wanted = saved(tree), copy.deepcopy(tree)

    copied = Snapshot().take(tree)
    optimizer.param_groups[0]["lr"] = 5.0
    optimizer.step()

    assert saved(tree) != before == saved(copied)
    assert copied["optimizer"]["param_groups"] == wanted["optimizer"]["param_groups"]


@pytest.mark.parametrize("make", TREES[:6])
def test_memory_is_reused(make: Callable[[], Any]) -> None:
    snapshot = Snapshot()
    first = addresses(snapshot.take(make()))

    for _ in range(3):
        assert addresses(snapshot.take(make())) == first


def test_memory_is_reused_by_tensors_of_the_same_size() -> None:
    snapshot = Snapshot()
    first = addresses(snapshot.take([torch.ones(4), torch.ones(8)]))

    again = snapshot.take({"b": torch.zeros(2, 4), "a": torch.arange(2), "new": torch.ones(5)})

    assert addresses([again["b"], again["a"]]) == first
    assert again["b"].eq(0).all() and again["a"].tolist() == [0, 1] and again["new"].eq(1).all()


def test_two_tensors_never_get_the_same_memory() -> None:
    snapshot = Snapshot()
    snapshot.take([torch.ones(4)])

    one, other = snapshot.take([torch.ones(4), torch.zeros(4)])

    assert one.eq(1).all() and other.eq(0).all()


def test_an_object_that_occurs_twice_is_copied_once() -> None:
    part = {"a": torch.ones(3), "b": [1, 2]}

    one, other = Snapshot().take([part, part])

    assert one is other and one is not part


def test_a_named_tuple_is_not_copied() -> None:
    class Point(NamedTuple):
        x: int
        y: int

    point = Point(1, 2)

    assert Snapshot().take([point])[0] is point


def test_tensors_that_share_memory_share_it_in_the_copy() -> None:
    base = torch.arange(6.0)

    copied = Snapshot().take({"base": base, "part": base[2:4]})
    copied["base"][2] = 7

    assert copied["part"].tolist() == [7, 3] and base[2] == 2


def test_no_copied_tensor_requires_a_gradient() -> None:
    model = nn.Linear(2, 2)

    assert not any(tensor.requires_grad for tensor in tensors(Snapshot().take(model.state_dict(keep_vars=True))))


def test_the_first_copy_uses_the_memory_allocated_in_the_background() -> None:
    tree = {"a": torch.randn(1000), "b": torch.randn(500)}
    snapshot = Snapshot()
    snapshot.warm([2000, 4000, 77])
    assert snapshot._warming is not None
    snapshot._warming.join()
    allocated = {storage.data_ptr() for storage in snapshot._buffers}

    copy = snapshot.take(tree)

    assert {tensor.untyped_storage().data_ptr() for tensor in copy.values()} < allocated
    assert all(torch.equal(tree[name], copy[name]) for name in tree)


def test_the_first_copy_waits_for_the_memory_allocated_in_the_background() -> None:
    class SlowSnapshot(Snapshot):
        def _touch(self, sizes: list[int]) -> None:
            time.sleep(0.1)
            super()._touch(sizes)

    snapshot = SlowSnapshot()
    snapshot.warm([4000])
    snapshot.take(torch.randn(1000))

    assert snapshot._warming is not None and not snapshot._warming.is_alive()
