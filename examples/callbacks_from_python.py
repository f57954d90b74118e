"""
Train from Python with early stopping and a callback of one's own.

    python -m examples.callbacks_from_python config/quickstart.py --max_iters=500
"""

import sys

import coregpt
from coregpt import Callback, EarlyStopping, exit_on_error


class LargestGradient(Callback):
    """Logs the largest gradient norm between two evaluations to metrics.jsonl, and saves it in checkpoints."""

    def __init__(self):
        self.largest = 0.0

    def on_step_end(self, trainer, result):
        if result.grad_norm is not None:  # None with grad_clip=0
            self.largest = max(self.largest, float(result.grad_norm))  # waits for a GPU

    def on_eval_end(self, trainer, losses):
        trainer.logger.log_event({"event": "gradient", "iter": trainer.iter_num, "largest": self.largest})
        self.largest = 0.0

    def state_dict(self):
        return {"largest": self.largest}

    def load_state_dict(self, state):
        self.largest = state["largest"]


def main(argv):
    """Train, and return the lowest validation loss."""
    return coregpt.train(argv, callbacks=[EarlyStopping(patience=3), LargestGradient()]).best_val_loss


if __name__ == "__main__":
    with exit_on_error():
        print(f"lowest validation loss: {main(sys.argv[1:]):.4f}")
