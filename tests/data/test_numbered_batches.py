"""Training batches are counted once, and evaluations begin again after their number."""

import torch

from data.numbered_batches import Batch, NumberedBatches


class Numbers(NumberedBatches):
    """Batches that say which they are."""

    def training_batch(self, number: int) -> Batch:
        return {"input": torch.tensor([number])}

    def evaluation_batch(self, split: str, number: int) -> Batch:
        return {"input": torch.tensor([number + (100 if split == "train" else 200)])}


def drawn(data: Numbers, *splits: str) -> list[int]:
    return [int(data.get_batch(split)["input"]) for split in splits]


def test_training_and_evaluations_count_apart() -> None:
    data = Numbers(2, seed=1, rank=0)

    assert drawn(data, "train", "train", "val", "val", "val", "train") == [0, 1, 200, 201, 200, 2]
    assert [int(data.get_eval_batch("train")["input"]) for _ in range(3)] == [100, 101, 100]
    assert drawn(data, "train") == [3]


def test_a_restart_continues_in_the_middle_of_an_evaluation() -> None:
    data, again = (Numbers(3, seed=1, rank=0) for _ in range(2))
    drawn(data, "train", "val", "val")
    state = data.state_dict()
    drawn(data, "train", "val")
    again.load_state_dict(state)

    assert state == {"drawn": 1, "evaluated": {"train": 0, "val": 2}}
    assert drawn(again, "train", "val", "val") == [1, 202, 200]
