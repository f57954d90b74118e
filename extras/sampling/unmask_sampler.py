"""Writing text by filling masks, some in each step: what an unmasking model does in place of nanoGPT's `generate`."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from extras.token_draw import draw_tokens


def masked_shares(schedule: str, steps: int) -> list[float]:
    """Return the share of the masks that is left after each step, beginning below 1 and ending at 0.

    schedule: linear: each step fills as many; cosine: few at first, while little is known, and more later
    """
    done = [step / steps for step in range(1, steps + 1)]
    return [math.cos(math.pi / 2 * share) if schedule == "cosine" else 1 - share for share in done]


class UnmaskSampler:
    """Fills the masks of a text in several steps.

    In every step the model says of all masks at once how likely each token is there. A token is drawn for every mask,
    the surest are kept, and the others become masks again: they are drawn anew in the next step, when the model can
    see what was kept. The last step keeps all. After MaskGIT (Chang et al. 2022), https://arxiv.org/abs/2202.04200

    model:           called as `model(ids (B, T)) -> (logits (B, T, V), _)`, in evaluation mode
    text_vocab_size: tokens below it are text; no other is ever drawn
    shares:          share of the masks that is left after each step, such as `masked_shares`; the last counts as 0
    order:           confidence: keep the tokens that the model, at temperature 1, finds likeliest; random: keep any
    remask:          let tokens of earlier steps become masks again as well, where the model has come to doubt them
    generator:       of the draws, on the model's device; they follow temperature, top_k and top_p: see `draw_tokens`
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
        """Yield `count` texts (count, T) after every step that changes them.

        start: (T,) token ids, of which those that are the mask token are filled and the others stay
        """
        ids = start.repeat(count, 1)
        free = ids == self.mask_token_id  # (B, T); as many in each row
        total = left = int(free[0].sum())
        for share in self.shares:
            wanted = round(share * total)
            if wanted >= left and not self.remask:
                continue
            masked = ids == self.mask_token_id
            logits = self.model(ids)[0][..., : self.text_vocab_size].float()  # (B, T, text)
            drawn = draw_tokens(logits[masked], self.generator, self.temperature, self.top_k, self.top_p)
            ids = ids.masked_scatter(masked, drawn)
            ids = self._masked_again(ids, logits, free if self.remask else masked, wanted)
            left = wanted
            yield ids

    def _masked_again(self, ids: Tensor, logits: Tensor, candidates: Tensor, count: int) -> Tensor:
        """Return the ids (B, T) with masks at the `count` candidates of each row that are to be kept last."""
        if self.order == "random":
            sureness = torch.rand(ids.shape, generator=self.generator, device=ids.device)
        else:
            sureness = logits.softmax(dim=-1).gather(-1, ids[..., None])[..., 0]  # (B, T)
        sureness = sureness.masked_fill(~candidates, float("inf"))
        return ids.scatter(1, sureness.topk(count, largest=False).indices, self.mask_token_id)
