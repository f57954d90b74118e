"""Diagnosis of an instability: each cause is named, the model is not changed, and no exception escapes."""

import random
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from core.objective import LanguageModeling, Output
from core.stability.diagnosis import ADVICE, Diagnosis, diagnose
from core.stability.monitor import RecentStep
from model import GPT
from tests.modifying import Modifying

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(0, 17, (4, 17))
    tokens[0, 1:3] = torch.tensor([0, 16])
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def lines(model: nn.Module, batch: Any, objective: Any = None, losses: Any = ()) -> dict[str, str]:
    """Return a diagnosis as a dict of its lines in order, from the text before the colon to the text after it."""
    text = diagnose(model, objective or LanguageModeling(), batch, losses)
    *report, advice = text.split("\n")
    assert advice == ADVICE
    return dict(line.split(": ", 1) for line in report)


def fill(tensor: torch.Tensor, count: int = 1, value: float = NAN) -> None:
    with torch.no_grad():
        tensor.view(-1)[:count] = value


# what is reported


def test_a_stable_update_is_described_by_its_numbers(tiny_model: GPT, batch: Any) -> None:
    report = lines(tiny_model, batch, losses=[2.5, torch.tensor(INF), 3])

    assert list(report) == ["the logits", "the loss", "the largest gradient norms", "the batch", "the recent losses"]
    tiny_model.zero_grad()
    logits, loss = tiny_model(*batch)
    loss.backward()
    norms = sorted(((value.grad.norm().item(), name) for name, value in tiny_model.named_parameters()), reverse=True)
    assert report["the logits"] == f"(4, 16, 17) float32, from {logits.min():.4g} to {logits.max():.4g}"
    assert report["the loss"] == f"{loss.item():.6g}"
    assert report["the largest gradient norms"] == ", ".join(f"{name} {norm:.4g}" for norm, name in norms[:3])
    assert report["the batch"] == "(4, 16) int64, from 0 to 16; (4, 16) int64, from 0 to 16"
    assert report["the recent losses"] == "2.5000, inf, 3.0000"


def test_non_finite_parameters_are_named_and_their_numbers_counted(tiny_model: GPT, batch: Any) -> None:
    for number, (_, value) in enumerate(list(tiny_model.named_parameters())[2:7]):
        fill(value, number + 1, (NAN, INF, -INF)[number % 3])
    report = lines(tiny_model, batch)

    assert next(iter(report)).startswith("parameters that are not finite, 5 of ")
    (named,) = [text for line, text in report.items() if line.startswith("parameters")]
    names = [name for name, _ in tiny_model.named_parameters()][2:5]
    sizes = [value.numel() for _, value in tiny_model.named_parameters()][2:5]
    parts = [f"{name} ({n} of {size:,} numbers)" for n, (name, size) in enumerate(zip(names, sizes, strict=True), 1)]
    assert named == ", ".join([*parts, "..."])


def test_the_first_module_with_a_non_finite_output_is_named(tiny_model: GPT, batch: Any) -> None:
    fill(tiny_model.transformer.h[1].mlp.c_fc.weight)
    report = lines(tiny_model, batch)

    expected = "transformer.h.1.mlp.c_fc (Linear), its input is finite"
    assert report["the first output that is not finite"] == expected
    assert report["the logits"].endswith(f"{64 * 17:,} of {64 * 17:,} numbers are not finite")
    assert report["the loss"] == "nan"


def test_a_module_that_overflows_with_finite_submodules_is_named(batch: Any) -> None:
    class Overflowing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 2)

        def forward(self, *, x: torch.Tensor) -> dict[str, Any]:
            return {"logits": self.inner(x), "extra": [x * 1e38 * 1e38]}

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Overflowing()

        def forward(self, x: torch.Tensor) -> Any:
            return self.block(x=x)

    def objective(model: nn.Module, batch: Any, train: bool) -> Output:
        return Output(model(batch["x"])["logits"].sum(), {})

    report = lines(Outer(), {"x": torch.ones(3, 2)}, objective)
    assert report["the first output that is not finite"] == "block (Overflowing), its input is finite"
    assert report["the logits"].startswith("(3, 2) float32, from ")
    assert report["the batch"] == "(3, 2) float32, from 1 to 1"

    def direct(model: nn.Module, batch: Any, train: bool) -> Output:
        return Output(model(x=batch)["logits"].sum(), {})

    report = lines(Overflowing(), torch.ones(3, 2), direct)
    assert report["the first output that is not finite"] == "the model itself (Overflowing), its input is finite"


def test_a_keyword_input_is_checked_as_well() -> None:
    class Leaf(nn.Module):
        def forward(self, *, x: torch.Tensor) -> torch.Tensor:
            return x

    report = lines(Leaf(), torch.tensor([NAN]), lambda model, batch, train: Output(model(x=batch).sum(), {}))
    assert report["the first output that is not finite"] == "the model itself (Leaf), its input is not finite"


def test_a_non_finite_batch_is_reported_as_the_input() -> None:
    def objective(model: nn.Module, batch: Any, train: bool) -> Output:
        return Output(model(batch[0][0]).mean(), {})

    inputs = torch.ones(2, 3)
    inputs[0, 0] = INF
    report = lines(nn.Sequential(nn.Linear(3, 1)), [(inputs,), "not a tensor"], objective)

    assert report["the first output that is not finite"] == "0 (Linear), its input is not finite"
    assert report["the batch"] == "(2, 3) float32, 1 of 6 numbers are not finite"


def test_a_non_finite_loss_of_finite_logits_is_reported(tiny_model: GPT, batch: Any) -> None:
    objective = LanguageModeling(Modifying(lambda loss, *_: loss / 0))
    report = lines(tiny_model, batch, objective)

    assert "the first output that is not finite" not in report
    assert "from" in report["the logits"] and report["the loss"] == "inf"


class Root(nn.Module):
    """Has a finite output, and an infinite gradient of `second`: that of the square root at 0."""

    def __init__(self, *before: float) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.tensor(2.0))
        self.second = nn.Parameter(torch.tensor(0.0))
        self.third = nn.Parameter(torch.tensor(3.0))
        self.unused = nn.Parameter(torch.tensor(4.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.first + self.second.sqrt() + self.third).flatten()


def test_the_first_non_finite_gradient_of_the_backward_pass_is_named() -> None:
    def objective(model: nn.Module, batch: Any, train: bool) -> Output:
        return Output(model(batch).sum(), {})

    report = lines(Root(), torch.ones(2), objective)
    assert report["gradients that are not finite, 1 of 3"] == "the backward pass met second first"

    def nan_loss(model: nn.Module, batch: Any, train: bool) -> Output:
        return Output(model(batch).sum() * NAN, {})

    report = lines(Root(), torch.ones(2), nan_loss)
    assert report["gradients that are not finite, 3 of 3"] == "the backward pass met third first"


def test_the_objective_is_called_once_and_for_training(tiny_model: GPT, batch: Any) -> None:
    calls = []

    def objective(model: nn.Module, batch: Any, train: bool) -> Output:
        calls.append((train, model.training, torch.is_grad_enabled()))
        return LanguageModeling()(model, batch, train)

    tiny_model.eval()
    with torch.no_grad():
        assert "the largest gradient norms" in lines(tiny_model, batch, objective)
    assert calls == [(True, True, True)]


@pytest.mark.parametrize(("value", "expected"), [(NAN, "parameters that are not finite"), (1.0, "of rank 0")])
def test_the_report_is_of_the_first_rank_with_non_finite_numbers(
    tiny_model: GPT, batch: Any, value: float, expected: str
) -> None:
    fill(tiny_model.lm_head.weight, value=value)
    diagnosis = Diagnosis(tiny_model, LanguageModeling(), nullcontext(), lambda report: ["of rank 0", report])

    assert diagnosis(RecentStep(3, batch, {}), []).startswith(expected)


def test_by_default_the_report_is_of_this_process(tiny_model: GPT, batch: Any) -> None:
    fill(tiny_model.lm_head.weight, value=NAN)

    assert Diagnosis(tiny_model, LanguageModeling())(RecentStep(3, batch, {}), []).startswith("parameters that are not")


# side effects


class Drawing(nn.Module):
    """Has batch statistics and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.last = nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.drop(self.norm(x)))


def drawing_objective(model: nn.Module, batch: Any, train: bool) -> Output:
    return Output(F.mse_loss(model(batch), torch.rand(4, 1)), {})


@pytest.mark.parametrize("fails", [False, True])
def test_weights_modes_and_random_states_are_restored(fails: bool) -> None:
    model, batch = Drawing(), torch.randn(4, 3)
    model.norm.eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.last.weight.grad = torch.ones(1, 3)
    random.seed(3)
    torch_before, python_before = torch.get_rng_state(), random.getstate()

    def objective(model: nn.Module, batch: Any, train: bool) -> Output:
        output = drawing_objective(model, batch, train)
        assert model.norm.num_batches_tracked == 1 and model.last.weight.grad is None
        if fails:
            raise ZeroDivisionError
        return output

    assert ("the loss" in lines(model, batch, objective)) is not fails
    assert torch.equal(torch.get_rng_state(), torch_before) and random.getstate() == python_before
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == [True, False, True, True]
    assert all(value.grad is None for value in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


# failures


def test_a_failing_objective_is_reported_and_the_diagnosis_continues(tiny_model: GPT, batch: Any) -> None:
    inputs, targets = batch
    inputs[1, 2] = 17
    fill(tiny_model.transformer.wpe.weight)
    report = lines(tiny_model, (inputs, targets), losses=[1.0])

    first, *others = report
    assert first.startswith("parameters") and others[-3:] == [
        "the diagnosis failed here",
        "the batch",
        "the recent losses",
    ]
    assert report["the diagnosis failed here"].startswith("IndexError: index out of range")
    assert report["the batch"].startswith("(4, 16) int64, from 0 to 17; ")


def test_outputs_before_a_failure_are_reported(tiny_model: GPT, batch: Any) -> None:
    def objective(model: nn.Module, batch: Any, train: bool) -> Output:
        model(*batch)
        raise RuntimeError("first line\nsecond line")

    fill(tiny_model.transformer.wte.weight[int(batch[0][0, 0])])
    report = lines(tiny_model, batch, objective)

    assert report["the first output that is not finite"] == "transformer.wte (Embedding), its input is finite"
    assert report["the diagnosis failed here"] == "RuntimeError: first line"


@pytest.mark.parametrize(
    ("batch", "description"),
    [
        (None, "no update was made yet"),
        ({"text": "abc"}, "no tensor in it"),
        ([torch.zeros(0, 3), torch.tensor([True, False])], "(0, 3) float32; (2,) bool, from False to True"),
    ],
)
def test_any_batch_is_described(batch: Any, description: str) -> None:
    model = nn.Linear(1, 1)
    report = lines(model, batch, lambda model, batch, train: Output(torch.tensor(1.0), {}))

    assert report["the batch"] == description
    assert ("the loss" in report) == (batch is not None)
    assert "the diagnosis failed here" not in report


def test_no_exception_escapes() -> None:
    class Hostile:
        def __getattr__(self, name: str) -> Any:
            raise MemoryError

        def __len__(self) -> int:
            raise KeyError

    text = diagnose(Hostile(), Hostile(), Hostile(), Hostile())  # type: ignore[arg-type]

    assert text.split("\n")[-1] == ADVICE
    assert text.count("the diagnosis failed here: ") == 3
