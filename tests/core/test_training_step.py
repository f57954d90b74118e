"""TrainingStep: one update, compared with gradients, norms and steps computed by hand."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from core.machine.parallel import Replicated
from core.objective import LanguageModeling, Objective, Output
from core.training_step import TrainingStep

LR = 0.5


class Line(nn.Module):
    """A model of 2 x 3 + 2 parameters with nanoGPT's contract, for targets that are numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = self.linear(inputs)
        return outputs, (outputs - targets).square().mean()


class Batches:
    """Draws random batches and records them."""

    def __init__(self) -> None:
        self.drawn: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __call__(self, split: str) -> tuple[torch.Tensor, torch.Tensor]:
        assert split == "train"
        self.drawn.append((torch.randn(4, 3), torch.randn(4, 2)))
        return self.drawn[-1]


class CustomGradSync(Replicated):
    """One process that uses the given context as `grad_sync`."""

    def __init__(self, context: Any) -> None:
        super().__init__()
        self.context = context

    def grad_sync(self, model: nn.Module) -> Any:
        return self.context


def training_step(model: nn.Module, objective: Objective | None = None, **changes: Any) -> TrainingStep:
    settings: dict[str, Any] = dict(get_batch=Batches(), gradient_accumulation_steps=3, grad_clip=0.0)
    optimizer = changes.pop("optimizer", None) or torch.optim.SGD(model.parameters(), lr=LR)
    return TrainingStep(model, objective or LanguageModeling(), optimizer, **settings | changes)


def summed_gradients(model: nn.Module, batches: list[Any]) -> list[torch.Tensor]:
    """Return the gradients of the sum of all micro-batches' losses, each divided by their number."""
    loss = sum(model(*batch)[1] / len(batches) for batch in batches)
    return list(torch.autograd.grad(loss, list(model.parameters())))  # type: ignore[arg-type]


def values(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("accumulation", [1, 2, 5])
def test_update_follows_the_gradient_of_the_mean_over_micro_batches(accumulation: int) -> None:
    model, batches = Line(), Batches()
    before = values(model)
    step = training_step(model, get_batch=batches, gradient_accumulation_steps=accumulation)
    step.execute_step()
    after = values(model)

    with torch.no_grad():
        for parameter, old in zip(model.parameters(), before, strict=True):
            parameter.copy_(old)
    gradients = summed_gradients(model, batches.drawn[:accumulation])
    for new, old, gradient in zip(after, before, gradients, strict=True):
        torch.testing.assert_close(new, old - LR * gradient)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_mean_loss_of_one_micro_batch_is_its_loss() -> None:
    result = training_step(Line(), gradient_accumulation_steps=1).execute_step()

    assert torch.equal(result.mean_loss, result.loss)


def test_result_holds_the_scaled_loss_of_the_last_micro_batch_detached() -> None:
    model, batches = Line(), Batches()
    step = training_step(model, get_batch=batches, optimizer=torch.optim.SGD(model.parameters(), lr=0.0))

    result = step.execute_step()

    losses = [model(*batch)[1] / 3 for batch in batches.drawn[:3]]
    assert torch.equal(result.loss, losses[2])
    assert torch.equal(result.mean_loss, torch.stack(losses).sum())
    assert not result.loss.requires_grad and not result.mean_loss.requires_grad
    assert result.metrics == {}


@pytest.mark.parametrize("max_norm", [1e-3, 0.1, 1e6])
def test_gradients_are_clipped_to_their_joint_norm(max_norm: float) -> None:
    model, batches = Line(), Batches()
    before = values(model)
    step = training_step(model, get_batch=batches, gradient_accumulation_steps=1, grad_clip=max_norm)
    step.prefetch()
    gradients = summed_gradients(model, batches.drawn)

    result = step.execute_step()

    norm = math.sqrt(sum(number**2 for gradient in gradients for number in gradient.flatten().tolist()))
    assert result.grad_norm is not None
    assert result.grad_norm.item() == pytest.approx(norm, rel=1e-6)  # of the gradients before clipping
    scale = min(1.0, max_norm / (norm + 1e-6))
    for parameter, old, gradient in zip(model.parameters(), before, gradients, strict=True):
        torch.testing.assert_close(parameter.detach(), old - LR * scale * gradient)


def test_without_clipping_no_norm_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def clip(*_: Any) -> torch.Tensor:
        raise AssertionError("called although grad_clip is 0")

    monkeypatch.setattr(Replicated, "clip", clip)
    monkeypatch.setattr(Replicated, "norm", clip)

    assert training_step(Line(), grad_clip=0.0).execute_step().grad_norm is None


class EventRecorder(Objective):
    """Records the forward and backward passes in `events`."""

    def __init__(self, events: list[str]) -> None:
        self.events = events

    def __call__(self, model: nn.Module, batch: Any, train: bool) -> Output:
        assert train
        self.events.append("forward")
        loss = model(*batch)[1]
        loss.register_hook(lambda gradient: self.events.append("backward"))
        return Output(loss, {"calls": torch.tensor(self.events.count("forward"))})


def test_next_batch_is_drawn_between_forward_and_backward() -> None:
    """CPU dropout and the data use one generator: in another order both draw other numbers than in nanoGPT."""
    events: list[str] = []
    batches = Batches()

    def get_batch(split: str) -> Any:
        events.append("batch")
        return batches(split)

    @contextmanager
    def grad_sync(last: bool) -> Iterator[None]:
        events.append(f"last={last}")
        yield
        events.append("synced")

    result = training_step(
        Line(),
        EventRecorder(events),
        get_batch=get_batch,
        parallel=CustomGradSync(grad_sync),
        gradient_accumulation_steps=2,
    ).execute_step()

    first = ["batch", "last=False", "forward", "batch", "backward", "synced"]
    assert events == [*first, "last=True", "forward", "batch", "backward", "synced"]
    assert result.metrics == {"calls": 2}  # the last micro-batch's


class Noisy(Line):
    """Draws one random number per output, as dropout does."""

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return super().forward(inputs, targets + torch.rand_like(targets))


def test_random_draws_are_made_in_nanogpts_order() -> None:
    step = training_step(Noisy(), gradient_accumulation_steps=2)
    torch.manual_seed(7)
    step.execute_step()
    step.execute_step()
    state = torch.get_rng_state()

    torch.manual_seed(7)
    drawn = [Batches()("train")]
    for _ in range(4):
        torch.rand(4, 2)
        drawn.append(Batches()("train"))
    for (ours, our_targets), (inputs, targets) in zip(step.get_batch.drawn, drawn, strict=True):  # type: ignore[attr-defined]
        assert torch.equal(ours, inputs) and torch.equal(our_targets, targets)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_prefetched_batch_is_used_by_the_next_update() -> None:
    batches = Batches()
    step = training_step(Line(), get_batch=batches, gradient_accumulation_steps=2)
    step.prefetch()
    step.prefetch()
    assert len(batches.drawn) == 1

    step.execute_step()
    assert len(batches.drawn) == 3 and step.batch is batches.drawn[2]
    step.execute_step()
    assert len(batches.drawn) == 5 and step.batch is batches.drawn[4]


def test_a_restored_batch_is_used_before_any_is_drawn() -> None:
    model, batches = Line(), Batches()
    restored = torch.ones(4, 3), torch.ones(4, 2)
    loss = model(*restored)[1]
    step = training_step(model, get_batch=batches, gradient_accumulation_steps=1)
    step.batch = restored

    step.prefetch()
    result = step.execute_step()

    assert torch.equal(result.loss, loss)
    assert len(batches.drawn) == 1


class AutocastRecorder(LanguageModeling):
    """Records in every call whether autocast is on."""

    def __init__(self) -> None:
        super().__init__()
        self.autocast: list[bool] = []

    def __call__(self, model: nn.Module, batch: Any, train: bool) -> Output:
        self.autocast.append(torch.is_autocast_enabled("cpu"))
        return super().__call__(model, batch, train)


@pytest.mark.parametrize(
    ("autocast", "active"), [(nullcontext(), False), (torch.amp.autocast("cpu", torch.bfloat16), True)]
)
def test_only_the_forward_pass_runs_under_autocast(autocast: AbstractContextManager[Any], active: bool) -> None:
    batches, objective = Batches(), AutocastRecorder()

    def get_batch(split: str) -> Any:
        assert not torch.is_autocast_enabled("cpu")
        return batches(split)

    training_step(Line(), objective, get_batch=get_batch, autocast=autocast).execute_step()

    assert objective.autocast == [active] * 3


@pytest.mark.parametrize("grad_clip", [0.0, 0.1])
def test_loss_scaling_by_a_power_of_two_changes_no_bit(grad_clip: float) -> None:
    """The gradients are unscaled before they are clipped, and the reported loss is not scaled at all."""
    results, weights = [], []
    for enabled in (False, True):
        torch.manual_seed(3)
        model = Line()
        scaler = torch.amp.GradScaler("cpu", enabled=enabled, init_scale=2.0**10)
        results.append(training_step(model, scaler=scaler, grad_clip=grad_clip).execute_step())
        weights.append(values(model))

    assert torch.equal(results[0].loss, results[1].loss)
    assert grad_clip == 0 or torch.equal(results[0].grad_norm, results[1].grad_norm)  # type: ignore[arg-type]
    assert all(torch.equal(plain, scaled) for plain, scaled in zip(*weights, strict=True))


def test_an_update_whose_scaled_gradients_overflow_is_skipped() -> None:
    model = Line()
    before = values(model)
    scaler = torch.amp.GradScaler("cpu", enabled=True, init_scale=2.0**127)
    large = torch.full((4, 3), 100.0), torch.zeros(4, 2)

    result = training_step(model, get_batch=lambda split: large, scaler=scaler, grad_clip=1.0).execute_step()

    assert result.loss.isfinite() and result.grad_norm is not None and not result.grad_norm.isfinite()
    assert all(torch.equal(old, new) for old, new in zip(before, values(model), strict=True))
    assert scaler.get_scale() == 2.0**126
    assert all(parameter.grad is None for parameter in model.parameters())


# skipped updates


def verdict(unstable: int) -> Any:
    """Return an `inspect` function whose flag is always `unstable`."""
    return lambda loss, grad_norm, metrics: torch.tensor(unstable, dtype=torch.int32)


@pytest.mark.parametrize("grad_clip", [0.0, 1.0])
@pytest.mark.parametrize("fused", [False, True])
def test_an_unstable_update_changes_neither_weights_nor_optimizer(fused: bool, grad_clip: float) -> None:
    """A fused optimizer skips the update on the device; for other optimizers the step reads the flag."""
    model = Line()
    step = training_step(
        model, optimizer=torch.optim.AdamW(model.parameters(), lr=LR, fused=fused), grad_clip=grad_clip
    )
    assert step.skips_on_device is fused
    step.execute_step(verdict(0))
    before, state = values(model), step.optimizer.state_dict()["state"]
    moments = {key: {name: value.clone() for name, value in part.items()} for key, part in state.items()}

    step.execute_step(verdict(1))

    assert all(torch.equal(old, new) for old, new in zip(before, values(model), strict=True))
    after = step.optimizer.state_dict()["state"]
    assert all(torch.equal(moments[key][name], value) for key in after for name, value in after[key].items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert step.updates == 2
    step.execute_step(verdict(0))
    assert not any(torch.equal(old, new) for old, new in zip(before, values(model), strict=True))


def test_a_skipped_update_does_not_skip_an_update_without_inspection() -> None:
    model = Line()
    step = training_step(model, optimizer=torch.optim.AdamW(model.parameters(), fused=True))
    step.execute_step(verdict(1))
    before = values(model)

    step.execute_step()

    assert not any(torch.equal(old, new) for old, new in zip(before, values(model), strict=True))


@pytest.mark.parametrize("grad_clip", [0.0, 1.0])
@pytest.mark.parametrize("fused", [False, True])
def test_inspecting_a_stable_update_changes_no_bit(fused: bool, grad_clip: float) -> None:
    weights = []
    for inspect in (None, verdict(0)):
        torch.manual_seed(3)
        model = Line()
        optimizer = torch.optim.AdamW(model.parameters(), lr=LR, fused=fused)
        step = training_step(model, optimizer=optimizer, grad_clip=grad_clip)
        for _ in range(3):
            step.execute_step(inspect)
        weights.append(values(model))

    assert all(torch.equal(plain, inspected) for plain, inspected in zip(*weights, strict=True))


@pytest.mark.parametrize("grad_clip", [0.0, 1e-3])
def test_loss_norm_and_metrics_are_inspected_before_the_update(grad_clip: float) -> None:
    model, inspected = Line(), []
    before = values(model)

    def inspect(loss: torch.Tensor, grad_norm: torch.Tensor, metrics: dict[str, torch.Tensor]) -> torch.Tensor:
        assert all(torch.equal(old, new) for old, new in zip(before, values(model), strict=True))
        inspected.append((loss, grad_norm, metrics))
        return torch.tensor(0)

    events: list[str] = []
    step = training_step(model, EventRecorder(events), grad_clip=grad_clip)
    step.prefetch()
    result = step.execute_step(inspect)

    ((loss, grad_norm, metrics),) = inspected
    with torch.no_grad():
        for parameter, old in zip(model.parameters(), before, strict=True):
            parameter.copy_(old)
        losses = [model(*batch)[1] / 3 for batch in step.get_batch.drawn[:3]]  # type: ignore[attr-defined]
    assert torch.equal(loss, torch.stack(losses).sum()) and torch.equal(result.loss, losses[2])
    assert result.mean_loss is loss
    assert not loss.requires_grad
    assert metrics == {"calls": 3}
    assert grad_norm > 0.1  # of the gradients before clipping
    assert result.grad_norm is (grad_norm if grad_clip else None)


@pytest.mark.parametrize("grad_clip", [0.0, 1.0])
def test_loss_scaling_continues_after_a_skipped_update(grad_clip: float) -> None:
    model = Line()
    scaler = torch.amp.GradScaler("cpu", enabled=True, init_scale=2.0**10)
    step = training_step(
        model, optimizer=torch.optim.AdamW(model.parameters(), fused=True), scaler=scaler, grad_clip=grad_clip
    )
    assert not step.skips_on_device  # `found_inf` is the scaler's here
    before = values(model)

    step.execute_step(verdict(1))
    assert all(torch.equal(old, new) for old, new in zip(before, values(model), strict=True))
    step.execute_step(verdict(0))
    assert not any(torch.equal(old, new) for old, new in zip(before, values(model), strict=True))


@pytest.mark.parametrize(("updates", "drawn"), [(0, 1), (1, 4), (2, 7)])
def test_skip_batches_skips_all_micro_batches_of_an_update(updates: int, drawn: int) -> None:
    batches = Batches()
    step = training_step(Line(), get_batch=batches, gradient_accumulation_steps=3)
    step.prefetch()

    step.skip_batches(updates)

    assert len(batches.drawn) == drawn
    assert step.batch is batches.drawn[-1]


def test_used_batch_is_the_last_micro_batch_of_the_update() -> None:
    batches = Batches()
    step = training_step(Line(), get_batch=batches, gradient_accumulation_steps=3)
    step.execute_step()

    assert step.used_batch is batches.drawn[2]


class NonFiniteAt(LanguageModeling):
    """Reports a non-finite number in one of its calls."""

    def __init__(self, bad_call: int) -> None:
        super().__init__()
        self.calls, self.bad_call = 0, bad_call

    def __call__(self, model: nn.Module, batch: Any, train: bool) -> Output:
        self.calls += 1
        return (
            super()
            .__call__(model, batch, train)
            ._replace(metrics={"finite": torch.tensor(self.calls != self.bad_call)})
        )


@pytest.mark.parametrize(("bad_call", "finite"), [(1, False), (2, False), (3, False), (9, True)])
def test_a_non_finite_number_of_any_micro_batch_is_inspected(bad_call: int, finite: bool) -> None:
    inspected = []

    def inspect(loss: torch.Tensor, grad_norm: torch.Tensor, metrics: dict[str, torch.Tensor]) -> torch.Tensor:
        inspected.append(bool(metrics["finite"]))
        return torch.tensor(0)

    training_step(Line(), NonFiniteAt(bad_call)).execute_step(inspect)

    assert inspected == [finite]
