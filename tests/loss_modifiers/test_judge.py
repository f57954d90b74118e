"""The inputs and the scores of a judge."""

import pytest
import torch

from loss_modifiers import Judge


class Listening:
    """A scorer that keeps its inputs."""

    def __init__(self, *scores: float) -> None:
        self.scores = torch.tensor(scores, requires_grad=True)

    def __call__(self, tokens: torch.Tensor) -> tuple[torch.Tensor, None]:
        self.seen = tokens
        return self.scores, None


@pytest.mark.parametrize(
    ("cls_token_id", "block_size", "expected"),
    [
        (9, 5, [[9, 1, 2, 3], [9, 4, 5, 6]]),
        (9, 4, [[9, 1, 2, 3], [9, 4, 5, 6]]),
        (9, 3, [[9, 1, 2], [9, 4, 5]]),
        (9, 1, [[9], [9]]),
        (None, 3, [[1, 2, 3], [4, 5, 6]]),
        (None, 2, [[1, 2], [4, 5]]),
        (0, 4, [[0, 1, 2, 3], [0, 4, 5, 6]]),
    ],
)
def test_cls_goes_first_and_the_end_is_cut(cls_token_id: int | None, block_size: int, expected: list) -> None:
    model = Listening(0.5, 0.5)
    Judge(model, cls_token_id, block_size)(torch.tensor([[1, 2, 3], [4, 5, 6]]))

    assert model.seen.tolist() == expected


def test_scores_are_brought_into_range_without_gradient() -> None:
    model, tokens = Listening(-0.5, 0.25, 1.5), torch.zeros(3, 2, dtype=torch.int64)
    found = Judge(model, None, 8)(tokens)

    assert found.tolist() == [0.0, 0.25, 1.0]
    assert not found.requires_grad
    model.scores = model.scores.bfloat16()
    assert Judge(model, None, 8)(tokens).dtype == torch.float32


def test_the_model_sees_its_own_ids_and_its_own_cls() -> None:
    model = Listening(0.5)
    Judge(model, 7, 8, renamed={7: 8, 8: 9})(torch.tensor([[1, 7, 8]]))

    assert model.seen.tolist() == [[7, 1, 8, 9]]


def test_expected_scores_are_on_the_scale_of_training() -> None:
    shares = torch.tensor([0.0, 0.1, 0.5, 1.0], dtype=torch.float64)

    assert Judge(Listening(), None, 8).expected(shares).tolist() == shares.tolist()
    assert Judge(Listening(), None, 8, transformed=True).expected(shares).tolist() == pytest.approx(
        [0.0, 0.1**4 - 2 * 0.1**3 + 0.2, 0.8125, 1.0]
    )
