"""Writing text with an unmasking model: fill masks, some in each step. The counterpart of nanoGPT's `generate`."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from extras.token_draw import draw_tokens


def masked_shares(schedule: str, steps: int) -> list[float]:
    """Return the share of the masks that is left after each step; the last is 0.

    schedule: linear: every step fills the same number; cosine: fewer in the first steps, more in the last
    """
    progress = [step / steps for step in range(1, steps + 1)]
    return [math.cos(math.pi / 2 * done) if schedule == "cosine" else 1 - done for done in progress]


class UnmaskSampler:
    """Fills the masks of a text in several steps.

    In every step the model predicts all masks at once, and a token is drawn for each. Some of the tokens are kept, the
    others become masks again and are drawn anew in the next step, in which the model sees the kept tokens. The last
    step keeps all. After MaskGIT (Chang et al. 2022), https://arxiv.org/abs/2202.04200

    model:           `model(ids (B, T)) -> (logits (B, T, V), _)`, in evaluation mode
    text_vocab_size: only ids below it are drawn
    shares:          share of the masks that is left after each step, such as `masked_shares`; the last counts as 0
    order:           confidence: keep the tokens with the highest probability at temperature 1; random: keep any
    remask:          tokens of earlier steps may become masks again, if their probability has become low
    generator:       for the draws, on the model's device; see `draw_tokens` for temperature, top_k and top_p
    """

    def __init__(
        self,
        model: nn.Module,
        text_vocab_size: int,
        mask_token_id: int,
        shares: Sequence[float],
        *,
        generator: torch.Generator,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        order: str = "random",
        remask: bool = False,
    ) -> None:
        self.model = model
        self.text_vocab_size = text_vocab_size
        self.mask_token_id = mask_token_id
        self.shares = [*shares[:-1], 0.0]
        self.generator = generator
        self.temperature = temperature
        self.top_k = top_k
        self.top_p = top_p
        self.order = order
        self.remask = remask

    @torch.no_grad()
    def states(self, start: Tensor, count: int = 1) -> Iterator[Tensor]:
        """Yield the ids (count, T) of `count` texts after every step; steps that change no text are skipped.

        start: (T,) token ids; the mask tokens are filled, the others stay
        """
        ids = start.repeat(count, 1)
        to_fill = ids == self.mask_token_id  # (B, T), the same number in each row
        total = left = int(to_fill[0].sum())
        for share in self.shares:
            wanted = round(share * total)
            if wanted >= left and not self.remask:
                continue
            masked = ids == self.mask_token_id
            logits = self.model(ids)[0][..., : self.text_vocab_size].float()  # (B, T, text)
            drawn = draw_tokens(logits[masked], self.generator, self.temperature, self.top_k, self.top_p)
            ids = ids.masked_scatter(masked, drawn)
            ids = self._with_masks(ids, logits, to_fill if self.remask else masked, wanted)
            left = wanted
            yield ids

    def _with_masks(self, ids: Tensor, logits: Tensor, candidates: Tensor, count: int) -> Tensor:
        """Return the ids (B, T) with masks at the `count` candidates of each row that come last in `order`."""
        if self.order == "random":
            confidence = torch.rand(ids.shape, generator=self.generator, device=ids.device)
        else:
            confidence = logits.softmax(dim=-1).gather(-1, ids[..., None])[..., 0]  # (B, T)
        confidence = confidence.masked_fill(~candidates, float("inf"))
        return ids.scatter(1, confidence.topk(count, largest=False).indices, self.mask_token_id)
