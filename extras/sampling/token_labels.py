"""What a token classifier says of a text: every token's class, for reading and against the truth."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from core.errors import ConfigError
from extras.sampling.painted_text import BACKGROUNDS, Decode, paint, pieces


class TokenLabels:
    """The classes of a text's tokens.

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
    def by(cls, model: nn.Module, ids: Tensor, decode: Decode) -> "TokenLabels":
        """Ask a model, called as `model(ids (1, T)) -> (logits (1, T, classes), _)`. ids: (T,)"""
        return cls(ids.tolist(), model(ids[None])[0][0].float().softmax(dim=-1).cpu(), decode)

    def painted(self) -> str:
        """Return the text, each class on a background of its own; class 0 on none."""
        colours = [self._background(number) for number in self.classes]
        return "".join(paint(text, colour) for text, colour in pieces(self.ids, colours, self.decode))

    def legend(self) -> str:
        """Return how many tokens each class has, in its colour."""
        numbers = range(self.probabilities.size(-1))
        return ", ".join(paint(f"class {n}", self._background(n)) + f": {self.classes.count(n)}" for n in numbers)

    def table(self, with_probabilities: bool = False) -> str:
        """Return a line per token: its class, its text as Python writes it, and perhaps each class's probability."""
        lines = []
        for token, number, shares in zip(self.ids, self.classes, self.probabilities.tolist(), strict=True):
            line = f"{number}  {self.decode([token])!r}"
            if with_probabilities:
                line = "  ".join([f"{line:<12}", *(f"{share:.4f}" for share in shares)])
            lines.append(line)
        return "\n".join(lines)

    def accuracy(self, original: Sequence[int]) -> str:
        """Return how well the labels tell the tokens that differ from the original text: those are class 1.

        Raises ConfigError for a text of another length, and for a classifier of more than two classes.
        """
        if len(original) != len(self.ids):
            raise ConfigError(f"the original has {len(original)} tokens and the text {len(self.ids)}: wanted as many")
        if self.probabilities.size(-1) != 2:
            raise ConfigError(
                f"the checkpoint knows {self.probabilities.size(-1)} classes: only one of two, which tells replaced "
                "tokens from others, can be held against an original text"
            )
        truth = [token != old for token, old in zip(self.ids, original, strict=True)]
        pairs = list(zip(truth, map(bool, self.classes), strict=True))
        right, found = sum(told == true for true, told in pairs), pairs.count((True, True))
        return (
            f"accuracy {right / max(len(pairs), 1):.4f}: {found} of {sum(truth)} replaced tokens found, "
            f"{pairs.count((False, True))} others taken for replaced"
        )

    @staticmethod
    def _background(number: int) -> str:
        return BACKGROUNDS[1 + (number - 1) % (len(BACKGROUNDS) - 1)] if number else BACKGROUNDS[0]
