"""A real trainer of a model with 8 parameters: 7 updates of 2 micro-batches, and 4 evaluations, 3 of which save."""

import copy

import torch
from torch import nn

import core


class Line(nn.Linear):
    def forward(self, inputs, targets):
        outputs = super().forward(inputs)
        return outputs, (outputs - targets).square().mean()

    def estimate_mfu(self, fwdbwd_per_iter, dt):
        return 0.5


def draw(split):
    return torch.randn(4, 3), torch.randn(4, 2)


def tiny_trainer(folder, objective=None, callbacks=(), logger=None, get_batch=draw, notes=None, **numbers):
    model, objective, runtime = Line(3, 2), objective or core.LanguageModeling(), core.Runtime(device="cpu")
    optimizer, detector = torch.optim.AdamW(model.parameters()), core.InstabilityDetector()
    step = core.TrainingStep(model, objective, optimizer, get_batch, gradient_accumulation_steps=2)
    evaluator = core.Evaluator(model, objective, get_batch, eval_iters=2)
    initial_model = core.LoadedModel(copy.deepcopy(model), {}), None
    saving = core.CheckpointManager(folder), core.SaveSchedule(), detector
    checkpointer = core.Checkpointer(model, step, runtime, *saving, make_model=lambda: initial_model, notes=notes)
    diagnosis = core.Diagnosis(model, objective, runtime.autocast, runtime.gather)
    monitor = core.StabilityMonitor(detector, core.Recovery("stop"), core.RankFlags(runtime.device), diagnosis)
    parts = step, core.CosineLRScheduler(0.1, 2, 10, 0.01), evaluator, checkpointer, monitor
    rest = logger or core.CompositeLogger(), runtime, core.Preemption(), callbacks
    return core.Trainer(model, *parts, *rest, numbers=core.LoopNumbers(**{**NUMBERS, **numbers}))


NUMBERS = dict(max_iters=6, eval_interval=2, log_interval=1, sequences_per_iter=8)
