"""Replicated: no wrapper for one process, DistributedDataParallel for several (here a group of one, on gloo)."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from core.machine.parallel import Replicated

CPU = torch.device("cpu")


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """Initialize a gloo group of one process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_model_of_one_process_is_not_wrapped() -> None:
    model = nn.Linear(3, 2)
    parallel = Replicated(distributed=False, device=CPU)

    assert parallel.wrap(model) is model
    assert parallel.unwrap(model) is model
    for last in (False, True):
        with parallel.grad_sync(model)(last) as context:
            assert context is None


@pytest.mark.usefixtures("process_group")
def test_several_processes_are_wrapped_without_broadcasting_buffers() -> None:
    """nanoGPT evaluates on rank 0 alone: a forward pass there must not wait for the other ranks."""
    model = nn.BatchNorm1d(3)  # it has buffers
    parallel = Replicated(distributed=True, device=CPU)

    wrapped = parallel.wrap(model)

    assert isinstance(wrapped, DistributedDataParallel)
    assert not wrapped.will_sync_module_buffers()
    assert wrapped.device_ids is None
    assert parallel.unwrap(wrapped) is model


@pytest.mark.usefixtures("process_group")
def test_gradients_are_all_reduced_in_the_last_micro_batch_only() -> None:
    parallel = Replicated(distributed=True, device=CPU)
    wrapped = parallel.wrap(nn.Linear(3, 2))
    grad_sync = parallel.grad_sync(wrapped)
    exchanged = []
    wrapped.register_comm_hook(None, lambda _, bucket: exchanged.append(True) or _finished(bucket.buffer()))  # type: ignore[operator]

    for last in (False, False, True):
        with grad_sync(last):
            assert wrapped.require_backward_grad_sync is last
            wrapped(torch.ones(4, 3)).sum().backward()
        assert wrapped.require_backward_grad_sync
        assert len(exchanged) == last

    assert torch.equal(parallel.unwrap(wrapped).weight.grad, torch.full((2, 3), 12.0))


def _finished(tensor: torch.Tensor) -> torch.futures.Future[torch.Tensor]:
    future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    future.set_result(tensor)
    return future


@pytest.mark.parametrize(("max_norm", "scale"), [(6.5, 0.5), (13.0, 1.0), (100.0, 1.0)])
def test_clip_returns_the_norm_and_scales_gradients_above_max_norm(max_norm: float, scale: float) -> None:
    weights = [torch.zeros(2, requires_grad=True), torch.zeros(1, requires_grad=True)]
    weights[0].grad, weights[1].grad = torch.tensor([3.0, 4.0]), torch.tensor([12.0])

    norm = Replicated(distributed=False, device=CPU).clip(weights, max_norm)

    assert norm.item() == math.sqrt(3**2 + 4**2 + 12**2)
    torch.testing.assert_close(weights[0].grad, scale * torch.tensor([3.0, 4.0]))
    torch.testing.assert_close(weights[1].grad, scale * torch.tensor([12.0]))


def test_state_dict_has_nanogpts_keys() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())

    state = Replicated(distributed=False, device=CPU).state_dict(model, optimizer)

    assert list(state) == ["model", "optimizer"]
    assert list(state["model"]) == ["weight", "bias"]
    assert state["model"]["weight"].data_ptr() == model.weight.data_ptr()
    assert state["optimizer"] == optimizer.state_dict()


def test_norm_does_not_change_the_gradients() -> None:
    weights = [torch.zeros(size, requires_grad=True) for size in (2, 1, 3)]
    weights[0].grad, weights[1].grad = torch.tensor([3.0, 4.0]), torch.tensor([12.0])  # the third is frozen

    assert Replicated(distributed=False, device=CPU).norm(iter(weights)).item() == 13.0
    assert weights[0].grad.tolist() == [3, 4] and weights[1].grad.tolist() == [12]


@pytest.mark.usefixtures("process_group")
def test_broadcast_parameters_sends_the_weights_of_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rank has its own seed, so a model that every rank makes again has other weights on each rank."""
    sent = []

    def broadcast(tensor: torch.Tensor, src: int) -> None:
        sent.append((tuple(tensor.shape), src))
        tensor.fill_(7.0)

    monkeypatch.setattr(dist, "broadcast", broadcast)
    model = nn.Linear(3, 2)

    Replicated(distributed=False, device=CPU).broadcast_parameters(model)
    assert sent == []
    Replicated(distributed=True, device=CPU).broadcast_parameters(model)

    assert sent == [((2, 3), 0), ((2,), 0)]
    assert all(bool(parameter.eq(7).all()) for parameter in model.parameters())
