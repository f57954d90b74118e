"""Flags that all ranks answer alike."""

import pytest
import torch

from core.stability.flags import Answers, Ballot

YES, NO = torch.tensor(True), torch.tensor(False)


def test_on_a_cpu_the_answers_are_those_of_this_ballot() -> None:
    agreed, answers = Ballot().cast(7, [NO, YES, torch.tensor(0, dtype=torch.int32)])

    assert answers == Answers(7, [False, True, False])
    assert agreed.tolist() == [0, 1, 0] and agreed.dtype == torch.int32


def test_one_message_carries_all_questions_and_any_rank_can_say_yes() -> None:
    sent = []

    def others_say_yes_to_the_last(flags: torch.Tensor) -> torch.Tensor:
        sent.append(flags.tolist())
        flags[-1] = 1
        return flags

    agreed, answers = Ballot(others_say_yes_to_the_last).cast(0, [YES, NO, NO])

    assert sent == [[1, 0, 0]]
    assert agreed.tolist() == [1, 0, 1]
    assert answers is not None and answers.flags == [True, False, True]


def test_the_flags_that_were_put_are_left_as_they_are() -> None:
    def all_yes(flags: torch.Tensor) -> torch.Tensor:
        return flags.fill_(1)

    flag = torch.tensor(0, dtype=torch.int32)
    Ballot(all_yes).cast(0, [flag])

    assert flag.item() == 0


class LateTensor(torch.Tensor):
    """A tensor on the CPU that says it is on a GPU."""

    is_cuda = True  # type: ignore[assignment]


class Event:
    """What a CUDA event is to the ballot."""

    waited = 0

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        Event.waited += 1


def test_on_a_gpu_the_answers_are_those_of_the_ballot_before(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = torch.empty
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch, "empty", lambda *size, dtype, pin_memory: empty(*size, dtype=dtype))
    ballot = Ballot(lambda flags: flags.as_subclass(LateTensor))

    assert ballot.cast(0, [YES])[1] is None
    assert ballot.cast(1, [NO])[1] == Answers(0, [True])
    assert ballot.cast(2, [YES])[1] == Answers(1, [False])
    assert ballot.settle() == Answers(2, [True])
    assert ballot.settle() is None
    assert Event.waited == 3

    ballot.cast(3, [YES])
    ballot.clear()
    assert ballot.settle() is None


def test_on_a_cpu_nothing_is_left_to_settle() -> None:
    ballot = Ballot()
    ballot.cast(0, [YES])

    assert ballot.settle() is None
