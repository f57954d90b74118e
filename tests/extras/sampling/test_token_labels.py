"""The predicted classes of a text's tokens: in colours, as a table, and compared with the original text."""

import pytest
import torch
from torch import Tensor, nn

from core.errors import ConfigError
from extras.sampling.token_labels import TokenLabels

PROBABILITIES = torch.tensor([[0.9, 0.1], [0.25, 0.75], [0.4, 0.6], [0.8, 0.2]])


def decode(ids: list[int]) -> str:
    return "".join("\n" if number == 0 else chr(96 + number) for number in ids)


@pytest.fixture
def labels() -> TokenLabels:
    return TokenLabels([1, 2, 3, 0], PROBABILITIES, decode)


def test_one_forward_pass_labels_the_text() -> None:
    class FixedLogits(nn.Module):
        def forward(self, ids: Tensor) -> tuple[Tensor, None]:
            assert ids.tolist() == [[1, 2, 3, 0]]
            return PROBABILITIES.log()[None] + 3, None

    labels = TokenLabels.predict(FixedLogits(), torch.tensor([1, 2, 3, 0]), decode)

    assert torch.allclose(labels.probabilities, PROBABILITIES)
    assert labels.classes == [0, 1, 1, 0]


def test_classes_are_shown_in_colours(labels: TokenLabels) -> None:
    assert labels.painted() == "a\x1b[41mbc\x1b[0m\n"
    assert labels.legend() == "class 0: 2, \x1b[41mclass 1\x1b[0m: 2"


def test_many_classes_have_colours() -> None:
    labels = TokenLabels([1] * 9, torch.eye(9), decode)

    assert labels.painted().count("\x1b[0m") == 8
    assert labels.legend().startswith("class 0: 1, ") and labels.legend().endswith("class 8\x1b[0m: 1")


def test_the_table_has_a_row_for_each_token(labels: TokenLabels) -> None:
    assert labels.table() == "0  'a'\n1  'b'\n1  'c'\n0  '\\n'"
    first, second, *_ = labels.table(with_probabilities=True).splitlines()
    assert first.split() == ["0", "'a'", "0.9000", "0.1000"]
    assert second.split() == ["1", "'b'", "0.2500", "0.7500"]


def test_accuracy_is_measured_against_the_original(labels: TokenLabels) -> None:
    """The second and the last token are replaced; the second and the third are labelled as replaced."""
    assert labels.accuracy([1, 9, 3, 9]) == (
        "accuracy 0.5000: 1 of 2 replaced tokens found, 1 others taken for replaced"
    )


@pytest.mark.parametrize("probabilities", [False, True])
def test_the_report_combines_table_colours_and_accuracy(labels: TokenLabels, probabilities: bool) -> None:
    table = labels.table(probabilities)
    in_colours = f"{labels.painted()}\n{labels.legend()}"
    original = [1, 9, 3, 9]

    assert labels.report(None, probabilities, coloured=False) == table
    assert labels.report(original, probabilities, coloured=False) == f"{table}\n{labels.accuracy(original)}"
    expected = f"{in_colours}\n{table}" if probabilities else in_colours
    assert labels.report(None, probabilities, coloured=True) == expected


def test_an_original_that_cannot_be_compared_is_refused(labels: TokenLabels) -> None:
    with pytest.raises(ConfigError, match="the original has 3 tokens and the text 4: wanted as many"):
        labels.accuracy([1, 2, 3])
    with pytest.raises(ConfigError, match="has 3 classes: only a classifier of two"):
        TokenLabels([1], torch.ones(1, 3), decode).accuracy([1])
