"""The classes that a token classifier predicts for a text, as coloured text, as a table, and as an accuracy."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from core.errors import ConfigError
from extras.sampling.painted_text import BACKGROUNDS, Decode, paint, pieces


class TokenLabels:
    """The predicted classes of a text's tokens.

    ids:           (T,) token ids
    probabilities: (T, classes)
    decode:        token ids to text
    """

    def __init__(self, ids: Sequence[int], probabilities: Tensor, decode: Decode) -> None:
        self.ids = list(ids)
        self.probabilities = probabilities
        self.decode = decode
        self.classes: list[int] = probabilities.argmax(dim=-1).tolist()

    @classmethod
    @torch.no_grad()
    def predict(cls, model: nn.Module, ids: Tensor, decode: Decode) -> "TokenLabels":
        """Return a model's predictions. model: `model(ids (1, T)) -> (logits (1, T, classes), _)`; ids: (T,)"""
        return cls(ids.tolist(), model(ids[None])[0][0].float().softmax(dim=-1).cpu(), decode)

    def report(self, original: Sequence[int] | None, with_probabilities: bool, *, coloured: bool) -> str:
        """Return the text in colours with a legend or the table of its tokens, and the accuracy.

        original: token ids of the original text; None for no accuracy
        coloured: colours instead of the table, which then needs `with_probabilities`
        """
        lines = [self.painted(), self.legend()] if coloured else []
        if with_probabilities or not coloured:
            lines.append(self.table(with_probabilities))
        if original is not None:
            lines.append(self.accuracy(original))
        return "\n".join(lines)

    def painted(self) -> str:
        """Return the text, each class on its own background colour; class 0 on none."""
        colours = [self._background(number) for number in self.classes]
        return "".join(paint(text, colour) for text, colour in pieces(self.ids, colours, self.decode))

    def legend(self) -> str:
        """Return the number of tokens of each class, in the colour of the class."""
        numbers = range(self.probabilities.size(-1))
        return ", ".join(paint(f"class {n}", self._background(n)) + f": {self.classes.count(n)}" for n in numbers)

    def table(self, with_probabilities: bool = False) -> str:
        """Return a line per token: its class, its text as a Python literal, and optionally all probabilities."""
        lines = []
        for token, number, probabilities in zip(self.ids, self.classes, self.probabilities.tolist(), strict=True):
            line = f"{number}  {self.decode([token])!r}"
            if with_probabilities:
                line = "  ".join([f"{line:<12}", *(f"{probability:.4f}" for probability in probabilities)])
            lines.append(line)
        return "\n".join(lines)

    def accuracy(self, original: Sequence[int]) -> str:
        """Return how well class 1 marks the tokens that differ from the original text.

        Raises ConfigError if the original has another length, or if there are more than two classes.
        """
        if len(original) != len(self.ids):
            raise ConfigError(f"the original has {len(original)} tokens and the text {len(self.ids)}: wanted as many")
        if self.probabilities.size(-1) != 2:
            raise ConfigError(
                f"the checkpoint has {self.probabilities.size(-1)} classes: only a classifier of two classes, replaced "
                "tokens and others, can be compared with an original text; remove original"
            )
        replaced = [token != old for token, old in zip(self.ids, original, strict=True)]
        pairs = list(zip(replaced, map(bool, self.classes), strict=True))
        right, found = sum(predicted == actual for actual, predicted in pairs), pairs.count((True, True))
        return (
            f"accuracy {right / max(len(pairs), 1):.4f}: {found} of {sum(replaced)} replaced tokens found, "
            f"{pairs.count((False, True))} others taken for replaced"
        )

    @staticmethod
    def _background(number: int) -> str:
        return BACKGROUNDS[1 + (number - 1) % (len(BACKGROUNDS) - 1)] if number else BACKGROUNDS[0]
