"""Parts that are handed in from Python: checked, and given what a run asks of them. See also tests/coregpt."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from core import CosineLRScheduler, LanguageModeling, Output, Runtime, SaveError
from core.checkpoint.run_folder import RunFolder
from data.tokenizers import CharTokenizer
from wiring.given_parts import GivenData, GivenParts, ready_model
from wiring.start import RunStart


class Numbers:
    def get_batch(self, split: str) -> Any:
        return split, 1


def test_objects_of_ours_stay_and_functions_get_their_methods() -> None:
    objective, scheduler = LanguageModeling(), CosineLRScheduler(1.0, 0, 10, 0.1)
    ours = GivenParts(objective=objective, scheduler=scheduler)
    assert ours.make_objective() is objective and ours.make_scheduler() is scheduler

    plain = GivenParts(objective=lambda model, batch, train: batch + train, scheduler=lambda iter_num: 2 * iter_num)
    assert plain.make_objective()(nn.Identity(), torch.tensor(3.0), True) == Output(torch.tensor(4.0), {})
    rate = plain.make_scheduler()
    assert rate is not None and rate.get_lr(4) == 8.0
    assert GivenParts().make_scheduler() is None


def test_data_say_what_a_run_asks_or_nothing(caplog: pytest.LogCaptureFixture) -> None:
    plain = GivenData(Numbers(), None)
    assert (plain.get_batch("val"), plain.vocab_size, plain.meta, plain.fingerprint()) == (
        ("val", 1),
        None,
        None,
        "Numbers",
    )

    tokenizer = CharTokenizer.from_text("abc")
    known = GivenData(Numbers(), tokenizer)
    assert known.vocab_size == 3 and known.meta == tokenizer.meta() and caplog.messages == []
    GivenData(Numbers(), object())
    assert caplog.messages == [
        "tokenizer: it has no meta(), so checkpoints do not hold it; give it to coregpt.load again"
    ]


def test_a_ready_model_cannot_be_made_again(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    make = ready_model(model, Runtime(device="cpu"), RunStart("scratch", None, RunFolder(tmp_path)))

    (made, args), checkpoint = make()
    assert made is model and args == {} and checkpoint is None
    with pytest.raises(
        SaveError, match="^the model was handed in from Python, and there is no checkpoint to roll back to"
    ):
        make()
