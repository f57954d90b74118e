"""
Train with parts of one's own and no options: each part of the loop is made here and handed to `core.Trainer`.

    python examples/custom_trainer.py
"""

import torch

import core
from model import GPT, GPTConfig


class Countdown:
    """A data source: sequences of digits that count down from a random one."""

    def get_batch(self, split):
        """Return inputs and targets, each (B, T) int64."""
        digits = (torch.randint(10, (16, 1)) - torch.arange(9)) % 10
        return digits[:, :-1], digits[:, 1:]


def main(out_dir="out-custom"):
    """Train, and return the lowest validation loss."""
    with core.Preemption() as preemption, core.Runtime(device="cpu", preemption=preemption) as runtime:
        folder = core.RunFolder(out_dir)
        folder.claim()
        folder.move_previous_run()

        model = GPT(GPTConfig(n_layer=1, n_head=2, n_embd=32, block_size=8, vocab_size=10))
        optimizer = torch.optim.AdamW(model.parameters())
        objective, data, detector = core.LanguageModeling(), Countdown(), core.InstabilityDetector()
        step = core.TrainingStep(model, objective, optimizer, data.get_batch)
        evaluator = core.Evaluator(model, objective, data.get_batch, eval_iters=5)
        scheduler = core.CosineLRScheduler(learning_rate=1e-2, warmup_iters=10, lr_decay_iters=100, min_lr=1e-3)

        saving = core.CheckpointManager(out_dir), core.SaveSchedule(), detector
        checkpointer = core.Checkpointer(model, step, runtime, *saving, data=data)
        judging = core.Recovery(), core.RankFlags(runtime.device), core.Diagnosis(model, objective)
        monitor = core.StabilityMonitor(detector, *judging)
        numbers = core.LoopNumbers(max_iters=100, eval_interval=25, log_interval=10, sequences_per_iter=16)
        parts = step, scheduler, evaluator, checkpointer, monitor, core.CompositeLogger([core.ConsoleLogger()])
        return core.Trainer(model, *parts, runtime, preemption, numbers=numbers).train()


if __name__ == "__main__":
    with core.exit_on_error():
        print(f"lowest validation loss: {main():.4f}")
