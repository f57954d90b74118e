"""RankFlags: flags that all ranks agree on."""

import pytest
import torch

from core.stability.flags import AgreedFlags, RankFlags

YES, NO = torch.tensor(True), torch.tensor(False)
CPU = torch.device("cpu")


def test_on_a_cpu_the_flags_are_known_at_once() -> None:
    agreed, known = RankFlags(CPU).reduce(7, [NO, YES, torch.tensor(0, dtype=torch.int32)])

    assert known == AgreedFlags(7, [False, True, False])
    assert agreed.tolist() == [0, 1, 0] and agreed.dtype == torch.int32


def test_one_collective_reduces_all_flags_and_any_rank_can_set_one() -> None:
    sent = []

    def set_the_last_flag(flags: torch.Tensor) -> torch.Tensor:
        sent.append(flags.tolist())
        flags[-1] = 1
        return flags

    agreed, known = RankFlags(CPU, set_the_last_flag).reduce(0, [YES, NO, NO])

    assert sent == [[1, 0, 0]]
    assert agreed.tolist() == [1, 0, 1]
    assert known is not None and known.flags == [True, False, True]


def test_reduce_does_not_change_its_input() -> None:
    def set_all_flags(flags: torch.Tensor) -> torch.Tensor:
        return flags.fill_(1)

    flag = torch.tensor(0, dtype=torch.int32)
    RankFlags(CPU, set_all_flags).reduce(0, [flag])

    assert flag.item() == 0


class FakeCudaTensor(torch.Tensor):
    """A CPU tensor whose `is_cuda` is True."""

    is_cuda = True  # type: ignore[assignment]


class Event:
    """The methods of a CUDA event that RankFlags calls."""

    waited = 0

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        Event.waited += 1


def test_on_a_gpu_the_flags_are_known_one_update_later(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = torch.empty
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch, "empty", lambda *size, dtype, pin_memory: empty(*size, dtype=dtype))
    flags = RankFlags(CPU, lambda flags: flags.as_subclass(FakeCudaTensor))

    assert flags.reduce(0, [YES])[1] is None
    assert flags.reduce(1, [NO])[1] == AgreedFlags(0, [True])
    assert flags.reduce(2, [YES])[1] == AgreedFlags(1, [False])
    assert flags.wait() == AgreedFlags(2, [True])
    assert flags.wait() is None
    assert Event.waited == 3

    flags.reduce(3, [YES])
    flags.clear()
    assert flags.wait() is None


def test_on_a_cpu_wait_returns_none() -> None:
    flags = RankFlags(CPU)
    flags.reduce(0, [YES])

    assert flags.wait() is None


def test_constants_are_made_once_and_never_changed() -> None:
    flags = RankFlags(CPU, lambda flags: flags.fill_(1))
    flags.reduce(0, [flags.flag(False), flags.flag(True)])

    assert (flags.flag(True).item(), flags.flag(False).item()) == (1, 0)
    assert flags.flag(True) is flags.flag(True)
    assert flags.flag(True).dtype == torch.int32
