"""Texts as the stages of a config mask them: batches of training and evaluation by stage, and statistics of them."""

from typing import NamedTuple

import torch

from config.options import Options
from core import Runtime
from core.errors import ConfigError
from data.corrupted_text import CorruptedText
from data.masked_text import MaskedText
from data.masking import corruption_rate
from data.stages import Stage
from data.token_bins import TokenBins
from wiring.data import RunData, open_data

GIVEN, HIDDEN, REPLACED, KEPT, PADDING = range(5)  # kinds of tokens
MASKED = (HIDDEN, REPLACED, KEPT)  # to be predicted; the model sees a mask token, a random token or the token itself


class Rows(NamedTuple):
    """Sequences masked by one stage, (N, T) each.

    seen:   token ids of the model's input
    answer: the original ids; for a classifier, whose batches do not hold them, the same as `seen`
    kinds:  GIVEN, HIDDEN, REPLACED, KEPT or PADDING for each token
    """

    seen: torch.Tensor
    answer: torch.Tensor
    kinds: torch.Tensor

    @property
    def mask(self) -> torch.Tensor:
        """The positions to predict, (N, T) bool."""
        return (self.kinds != GIVEN) & (self.kinds != PADDING)


class Sample(NamedTuple):
    """The sequences of one stage of one split. title, target (the intended masked share): text for the reader"""

    title: str
    target: str
    rows: Rows


def masked_ratios(rows: Rows) -> torch.Tensor:
    """Return the masked share of each sequence's content, (N,) float64."""
    content = (rows.kinds != PADDING).sum(dim=1).clamp(min=1)
    return rows.mask.sum(dim=1).double() / content


def cluster_sizes(mask: torch.Tensor) -> torch.Tensor:
    """Return the lengths of all runs of adjacent masked positions, row by row, (clusters,) int64. mask: (N, T) bool"""
    edge = torch.zeros(len(mask), 1, dtype=torch.int8)
    steps = torch.cat([edge, mask.to(torch.int8), edge], dim=1).diff(dim=1)  # 1 where a run begins, -1 after its end
    return (steps == -1).nonzero()[:, 1] - (steps == 1).nonzero()[:, 1]


def kind_shares(rows: Rows) -> dict[int, float]:
    """Return the share of each kind in MASKED among the masked positions."""
    total = max(int(rows.mask.sum()), 1)
    return {kind: int((rows.kinds == kind).sum()) / total for kind in MASKED}


def open_all_stages(options: Options, runtime: Runtime) -> RunData:
    """Return the data of a run, with all its stages in use from the start."""
    return open_data(options.model_copy(update={"use_all_stages_for_training": True}), runtime)


def draw_samples(options: Options, data: RunData, sequences: int) -> list[Sample]:
    """Return up to `sequences` rows of every training stage, then of every validation stage.

    data: as `open_all_stages` returns it; drawing advances its position. DataError for ids outside of its vocabulary
    """
    source = data.batches
    if isinstance(data.source, TokenBins) and data.vocabulary is not None:
        data.source.check_vocab(data.vocabulary.text)
    if isinstance(source, MaskedText) and data.vocabulary is not None:
        kinds = data.vocabulary.mask, data.vocabulary.pad
        batches = -(-(sequences + 1) * len(source.training) // source.batch_size)
        return [
            *_by_stage(source, "train", source.training, batches, sequences, *kinds),
            *_by_stage(source, "val", source.validation, source.eval_iters, sequences, *kinds),
        ]
    if isinstance(source, CorruptedText):
        return _by_iteration(source, sequences)
    raise ConfigError(
        f"training_type={options.training_type} has no masks to show in {options.dataset}: wanted unmasking, "
        "sequence_scoring or token_classification, and data_source=bins"
    )


def classify_tokens(seen: torch.Tensor, targets: torch.Tensor, mask_id: int, pad_id: int) -> Rows:
    """Return the rows of a batch with the kind of each token; a random token equal to the original counts as KEPT.

    seen, targets: (N, T) int64; the target is -1 where nothing is predicted
    """
    masked = targets >= 0
    answer = targets.where(masked, seen)
    kinds = torch.full_like(seen, GIVEN, dtype=torch.int8)
    kinds[masked] = REPLACED
    kinds[masked & (seen == answer)] = KEPT
    kinds[masked & (seen == mask_id)] = HIDDEN
    kinds[~masked & (seen == pad_id)] = PADDING
    return Rows(seen.int(), answer.int(), kinds)  # int32 halves the memory


def _by_stage(
    source: MaskedText, split: str, stages: list[Stage], batches: int, sequences: int, mask_id: int, pad_id: int
) -> list[Sample]:
    drawn: list[list[Rows]] = [[] for _ in stages]
    counts = [0] * len(stages)
    for _ in range(batches):
        batch = source.get_batch(split)
        rows = classify_tokens(batch["input"], batch["target"], mask_id, pad_id)
        for number in set(batch["stage"].tolist()):
            indices = (batch["stage"] == number).nonzero()[: sequences - counts[number], 0]
            drawn[number].append(Rows(*(values[indices] for values in rows)))
            counts[number] += len(indices)
    return [
        Sample(f"{split} {number}: {stage.describe()}", stage.target(), _concatenate(drawn[number]))
        for number, stage in enumerate(stages)
        if counts[number]  # an evaluation with fewer texts than stages does not use all stages
    ]


def _by_iteration(source: CorruptedText, sequences: int) -> list[Sample]:
    """Return a classifier's texts at the beginning, the middle and the end of the warm-up, and in evaluations."""
    samples, warmup = [], source.warmup_iters
    batches = -(-sequences // source.batch_size)
    training = [("train", iter_num, batches) for iter_num in sorted({0, warmup // 2, warmup})]
    for split, iter_num, count in (*training, ("val", source.eval_at, source.eval_iters)):
        source.iter_num = iter_num
        drawn = []
        for batch in (source.get_batch(split) for _ in range(min(count, batches))):
            kinds = torch.full_like(batch["input"], GIVEN, dtype=torch.int8)
            kinds[batch["target"] == 1], kinds[batch["target"] < 0] = REPLACED, PADDING
            drawn.append(Rows(batch["input"].int(), batch["input"].int(), kinds))
        share = f"{corruption_rate(iter_num, source.unmasked_min, source.unmasked_max, warmup):.3g}"
        rows = Rows(*(values[:sequences] for values in _concatenate(drawn)))
        samples.append(Sample(f"{split}: replaced as in iteration {iter_num}", share, rows))
    return samples


def _concatenate(parts: list[Rows]) -> Rows:
    return Rows(*(torch.cat(values) for values in zip(*parts, strict=True)))
