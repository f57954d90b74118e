"""Explains an unstable update: one more forward and backward pass on its batch, with every module watched."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from core.batch import Batch
from core.objective import Output

NAMED = 3  # parameters named in a line, at most
ADVICE = "what to try: lower learning_rate, more warmup_iters, smaller grad_clip, dtype=float32, a look at the batch"
Compute = Callable[..., Output]  # an objective: compute(model, batch, train=True)
Say = Callable[[str], None]


class Diagnosis:
    """Explains an unstable update on every rank, and returns the report of one of them.

    raw_model: neither compiled nor wrapped: a rank can run it without the others
    gather:    `gather(value)` returns every rank's value, on every rank; by default this process is the only one
    """

    def __init__(
        self,
        raw_model: nn.Module,
        objective: Compute,
        autocast: AbstractContextManager[Any] | None = None,
        gather: Callable[[str], list[str]] = lambda report: [report],
    ) -> None:
        self.raw_model = raw_model
        self.objective = objective
        self.autocast = autocast or nullcontext()
        self.gather = gather

    def __call__(self, step: Any, recent_losses: Sequence[float]) -> str:
        """Return the report of the first rank that found something non-finite; else that of rank 0.

        step: a `RecentStep`, or None if no update was made
        """
        with self.autocast:
            report = diagnose(self.raw_model, self.objective, step.batch if step else None, recent_losses)
        if step and "data" in step.position:
            report += f"\nthe data of the update began at: {step.position['data']}"
        reports = self.gather(report)
        return next((report for report in reports if "not finite" in report), reports[0])


def diagnose(model: nn.Module, objective: Compute, batch: Batch | None, recent_losses: Sequence[float] = ()) -> str:
    """Return a report on an unstable update, a few lines for a terminal.

    Runs `objective` once more on the batch, in train mode and in the precision of the caller. Gradients are dropped;
    weights, buffers, modes and torch's random state stay as they are. Raises nothing: an examination that fails is
    reported as such.

    batch: None if no update was made
    """
    lines: list[str] = []
    say = lines.append
    examinations: list[Callable[[], None]] = [
        lambda: _look_at_parameters(model, say),
        lambda: _look_at_update(model, objective, batch, say),
        lambda: _look_at_batch(batch, say),
        lambda: _look_at_losses(recent_losses, say),
    ]
    for examine in examinations:
        try:
            examine()
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0]
            say(f"the diagnosis failed here: {type(error).__name__}: {reason}")
    return "\n".join([*lines, ADVICE])


def _look_at_parameters(model: nn.Module, say: Say) -> None:
    counts = {name: int((~torch.isfinite(value)).sum()) for name, value in model.named_parameters()}
    bad = {name: count for name, count in counts.items() if count}
    if bad:
        sizes = {name: value.numel() for name, value in model.named_parameters()}
        named = ", ".join(f"{name} ({bad[name]:,} of {sizes[name]:,} numbers)" for name in list(bad)[:NAMED])
        say(f"parameters that are not finite, {len(bad)} of {len(counts)}: {named}{_ellipsis(bad)}")


def _look_at_update(model: nn.Module, objective: Compute, batch: Batch | None, say: Say) -> None:
    if batch is None:
        return
    with _restored(model), torch.enable_grad():
        with _watched(model, say):
            loss = objective(model, batch, train=True).loss
        say(f"the loss: {loss.item():.6g}")
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
            _look_at_gradients(model, say)


def _look_at_gradients(model: nn.Module, say: Say) -> None:
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    bad = [name for name, gradient in gradients.items() if not _is_finite(gradient)]
    if bad:
        say(f"gradients that are not finite, {len(bad)} of {len(gradients)}: the backward pass met {bad[-1]} first")
        return
    norms = {name: gradient.float().norm().item() for name, gradient in gradients.items()}
    largest = sorted(norms, key=lambda name: -norms[name])[:NAMED]
    if largest:
        say("the largest gradient norms: " + ", ".join(f"{name} {norms[name]:.4g}" for name in largest))


def _look_at_batch(batch: Batch | None, say: Say) -> None:
    tensors = _tensors(batch)
    if tensors:
        say("the batch: " + "; ".join(_describe(tensor) for tensor in tensors))
    else:
        say("the batch: no update was made yet" if batch is None else "the batch: no tensor in it")


def _look_at_losses(recent_losses: Sequence[float], say: Say) -> None:
    if recent_losses:
        say("the recent losses: " + ", ".join(f"{float(loss):.4f}" for loss in recent_losses))


@contextmanager
def _watched(model: nn.Module, say: Say) -> Iterator[None]:
    """Inside, report the first module whose output is not finite, and the range of the model's logits."""
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def look(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if not found and not all(_is_finite(tensor) for tensor in _tensors(output)):
                found.append(name)
                before = "finite" if all(_is_finite(tensor) for tensor in _tensors([args, kwargs])) else "not finite"
                place = f"{name or 'the model itself'} ({type(module).__name__})"
                say(f"the first output that is not finite: {place}, its input is {before}")

        return look

    def look_at_logits(module: nn.Module, args: Any, output: Any) -> None:
        logits = _logits(output)
        if logits is not None:
            say(f"the logits: {_describe(logits)}")

    hooks = [module.register_forward_hook(watch(name), with_kwargs=True) for name, module in model.named_modules()]
    hooks.append(model.register_forward_hook(look_at_logits))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in train mode without gradients; afterwards modes, buffers and random state are restored."""
    modes = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = {value.device for value in model.parameters() if value.device.type == "cuda"}
    with torch.random.fork_rng(devices=devices):
        try:
            model.zero_grad(set_to_none=True)
            model.train()
            yield
        finally:
            model.zero_grad(set_to_none=True)
            for module, mode in modes.items():
                module.training = mode
            with torch.no_grad():
                for buffer, before in buffers:
                    if not torch.equal(buffer, before):
                        buffer.copy_(before)


def _logits(output: Any) -> torch.Tensor | None:
    """Return a model's logits: its output, the first part of that, or its `logits`."""
    if isinstance(output, dict):
        output = output.get("logits")
    elif isinstance(output, list | tuple):
        output = output[0] if output else None
    return output if isinstance(output, torch.Tensor) and output.dim() else None


def _describe(tensor: torch.Tensor) -> str:
    """Return a tensor's shape, type and range, or how many of its numbers are not finite."""
    shape = f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
    if not tensor.numel() or tensor.is_complex():
        return shape
    bad = int((~torch.isfinite(tensor)).sum())
    if bad:
        return f"{shape}, {bad:,} of {tensor.numel():,} numbers are not finite"
    low, high = tensor.min().item(), tensor.max().item()
    return f"{shape}, from {low:.4g} to {high:.4g}" if tensor.is_floating_point() else f"{shape}, from {low} to {high}"


def _tensors(tree: Any) -> list[torch.Tensor]:
    """Return the tensors in nested dicts, lists and tuples."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _is_finite(tensor: torch.Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _ellipsis(names: dict[str, int]) -> str:
    return ", ..." if len(names) > NAMED else ""
