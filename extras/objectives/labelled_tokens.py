"""Learning the labelled tokens of rows: the objective of fine-tuning models of Hugging Face."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from core.batch import Batch, has_tensors
from core.objective import Objective, Output
from data.rows.encoding import IGNORED


class LabelledTokens(Objective):
    """Cross-entropy of the tokens that have a label, over all micro-batches of an update alike.

    A batch is a dict of what the model takes by name, with

    labels     (B, T) int64:  token ids, IGNORED elsewhere
    loss_share () float32:    the factor of the summed loss, see `data.rows.batches.RowBatches`

    Training reports the mean over the labels of each micro-batch; one without any repeats the report before it.

    shifts: each label is at the place of its own token, which the position before predicts, as in causal models
    """

    def __init__(self, shifts: bool) -> None:
        self.shifts = shifts
        self._reported = torch.zeros(())  # in training, of the last micro-batch

    def __call__(self, model: nn.Module, batch: Batch, train: bool) -> Output:
        inputs = {name: value for name, value in batch.items() if name != "loss_share"}
        logits = model(**inputs)  # (B, T, V)
        labels = batch["labels"]
        if self.shifts:  # the labels are moved, as a copy of the logits would take much more memory
            labels = F.pad(labels, (0, 1), value=IGNORED)[:, 1:]
        total = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum")
        count = (labels != IGNORED).sum()
        mean = total.detach() / count.clamp(min=1)
        if train:
            mean = self._reported = torch.where(count > 0, mean, self._reported.to(mean.device))
        return Output(total * batch["loss_share"], {}, reported=mean)

    def takes(self, batch: Batch) -> bool:
        return has_tensors(batch, "input_ids", "labels", "loss_share")

    def state_dict(self) -> dict[str, Any]:
        return {"reported": self._reported}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._reported = state["reported"]
