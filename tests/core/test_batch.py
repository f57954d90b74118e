"""Batches of any structure: moved to a device, and fingerprinted."""

import copy
from typing import Any, NamedTuple

import pytest
import torch

from core.batch import fingerprint, has_tensors, is_for_model, to_device


def test_every_tensor_of_a_batch_is_moved() -> None:
    batch = ({"tokens": torch.arange(3), "text": "abc"}, [torch.ones(2), None])

    moved = to_device(batch, torch.device("meta"))

    assert moved[0]["tokens"].device.type == moved[1][0].device.type == "meta"
    assert (moved[0]["text"], moved[1][1]) == ("abc", None)


def test_only_equal_batches_have_the_same_fingerprint() -> None:
    numbers = torch.arange(6)
    batches: list[Any] = [
        *(numbers, numbers.view(2, 3), numbers.view(torch.double), numbers.flip(0), torch.arange(7)),
        *((numbers,), (numbers, numbers), ((numbers,), numbers), {"a": numbers}, {"b": numbers}),
        *({"a": numbers, "length": 5}, {"a": numbers, "length": 6}, None, "text", 5),
    ]
    fingerprints = [fingerprint(batch) for batch in batches]

    assert len(set(fingerprints)) == len(batches)
    assert fingerprints == [fingerprint(copy.deepcopy(batch)) for batch in batches]


def test_a_change_of_one_number_changes_the_fingerprint() -> None:
    batch = torch.zeros(4, 8, dtype=torch.int64), torch.zeros(4, 8, dtype=torch.int64)
    before = fingerprint(batch)
    batch[1][3, 7] = 1

    assert fingerprint(batch) != before


def test_strides_do_not_change_the_fingerprint() -> None:
    batch = torch.arange(6).view(2, 3)

    assert fingerprint(batch.t().contiguous().t()) == fingerprint(batch)


def test_lists_stay_lists_and_named_tuples_become_tuples() -> None:
    class Pair(NamedTuple):
        first: torch.Tensor
        second: list[torch.Tensor]

    moved = to_device({"pair": Pair(torch.ones(2), [torch.ones(3)])}, torch.device("meta"))

    assert type(moved["pair"]) is tuple and type(moved["pair"][1]) is list
    assert moved["pair"][1][0].device.type == "meta"


def test_a_scalar_stays_on_the_cpu() -> None:
    moved = to_device({"seed": torch.tensor(7), "ids": torch.ones(2)}, torch.device("meta"))

    assert (moved["seed"].device.type, moved["ids"].device.type) == ("cpu", "meta")


def test_a_copy_to_a_gpu_is_pinned_and_non_blocking(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class OnCpu(torch.Tensor):
        def pin_memory(self, *_: Any) -> "OnCpu":
            calls.append("pinned")
            return self

        def to(self, *args: Any, **options: Any) -> "OnCpu":
            calls.append((args[0].type, options))
            return self

    to_device([torch.ones(2).as_subclass(OnCpu)], torch.device("cuda"))

    assert calls == ["pinned", ("cuda", {"non_blocking": True})]


IDS = torch.tensor([[0, 16, 3], [4, 5, 6]])
ARGS = {"vocab_size": 17, "block_size": 3}


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (None, True),
        ((IDS, IDS - 1), True),  # a target of -1 is ignored
        ({"ids": IDS, "mask": IDS > 3, "share": torch.tensor(-0.5)}, True),
        ({"ids": IDS, "stage": torch.tensor([17, 99]), "seed": torch.tensor(2**62)}, True),
        ((IDS.float(), IDS), False),
        ((IDS,), False),
        ((IDS[:0], IDS[:0]), False),
        ((IDS + 1, IDS), False),
        ((IDS, IDS + 1), False),
        ((IDS - 1, IDS), False),
        ((IDS, IDS - 2), False),  # the loss ignores nothing but -1
        ({"ids": IDS, "target": IDS - 100}, True),
        ((IDS.repeat(1, 2), IDS), False),
        ((IDS.to_sparse(), IDS), False),
        ((IDS.to("meta"), IDS), False),
        (3, False),
        ({"a": [1]}, False),
    ],
)
def test_a_saved_batch_is_compared_with_the_model(batch: Any, expected: bool) -> None:
    assert is_for_model(batch, ARGS) is expected


def test_a_batch_of_a_model_without_a_vocabulary_is_not_compared() -> None:
    assert is_for_model((IDS + 99, IDS.repeat(1, 9)), {}) and is_for_model(torch.randn(2, 9), {})


def test_a_batch_has_tensors_under_the_keys_that_an_objective_reads() -> None:
    batch = {"input": IDS, "target": IDS, "seed": 3}

    assert has_tensors(batch, "input", "target") and has_tensors(batch)
    assert not has_tensors(batch, "input", "targets") and not has_tensors(batch, "seed")
    assert not has_tensors((IDS, IDS), "input")
