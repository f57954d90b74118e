"""
A callback in the style of epoch-based trainers, attached by its file: no import, no base class.

    python train.py config/quickstart.py --callbacks_file=examples/callbacks_file.py

train.py makes one instance of each class in the file that has event methods. docs/callbacks.md lists the events.
"""

import sys


class EpochReport:
    """Prints a line on stderr for each epoch, and ends the run at a given validation loss."""

    def __init__(self, target=1.5):
        self.target = target
        self.should_stop = False  # the run ends when this is true

    def on_epoch_begin(self, epoch):
        print(f"epoch {epoch} begins", file=sys.stderr)

    def on_batch_end(self, state, **kwargs):
        self.last = state  # reading state.loss waits for a GPU, so it is read once per epoch

    def on_epoch_end(self, epoch):
        print(f"epoch {epoch}: mean loss {self.last.loss:.4f} of {self.last.batch_idx + 1} updates", file=sys.stderr)

    def on_validation_end(self, metrics):
        self.should_stop = metrics["val_loss"] < self.target
