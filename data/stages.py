"""Masking stages: the dicts of `unmasking_stages` and `validation_stages` as objects that mask rows."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, NamedTuple

import torch

from core.errors import ConfigError
from data.masking import corrupt, line_mask, random_mask, span_mask, sticky_mask, uniform_mask


class Rows(NamedTuple):
    """Rows to mask: tokens (B, T) int64; lengths (B,) without padding; newline_id: the token that ends a line."""

    tokens: torch.Tensor
    lengths: torch.Tensor | None
    newline_id: int | None


class Stage(ABC):
    """A way to choose the positions to predict, and how long training uses it.

    The contract: a frozen dataclass whose fields are the keys of its dict.

    corrupts:             True: 80 % of the chosen positions become the mask token, 10 % a random token, 10 % keep
                          theirs; False: all become the mask token
    val_loss_stale_count: number of evaluations without a better loss after which training goes on to the next stage
    """

    type: ClassVar[str]
    corrupts: ClassVar[bool] = True
    val_loss_stale_count: int

    def mask(
        self,
        tokens: torch.Tensor,
        generator: torch.Generator,
        lengths: torch.Tensor | None = None,
        newline_id: int | None = None,
    ) -> torch.Tensor:
        """Return the positions to predict, (B, T) bool. tokens (B, T), lengths (B,) without padding."""
        return self.choose(Rows(tokens, lengths, newline_id), generator)

    @abstractmethod
    def choose(self, rows: Rows, generator: torch.Generator) -> torch.Tensor:
        """Return the positions to predict, (B, T) bool; ConfigError if the stage cannot mask such rows."""

    @abstractmethod
    def describe(self) -> str:
        """Return a short description for the log."""

    @abstractmethod
    def target(self) -> str:
        """Return the masked fraction that the stage aims at, as text for a table."""

    def misfit(self, block_size: int, has_newline: bool) -> str | None:
        """Return why the stage cannot mask rows of `block_size` tokens; None if it can."""
        return None


@dataclass(frozen=True)
class StickyStage(Stage):
    """Masks a fixed fraction of each row, in clusters or scattered: see `sticky_mask`."""

    target_masked_ratio: float
    p1_probability: float
    p2_probability: float
    val_loss_stale_count: int
    type: ClassVar[str] = "sticky"

    def choose(self, rows: Rows, generator: torch.Generator) -> torch.Tensor:
        chances = self.p1_probability, self.p2_probability
        return sticky_mask(rows.tokens, self.target_masked_ratio, *chances, generator, rows.lengths)

    def describe(self) -> str:
        """Return for instance `sticky, target 0.40, p1 0.15, p2 0.30`."""
        chances = f"p1 {_short(self.p1_probability)}, p2 {_short(self.p2_probability)}"
        return f"{self.type}, target {_short(self.target_masked_ratio)}, {chances}"

    def target(self) -> str:
        """Return for instance `0.4`."""
        return f"{self.target_masked_ratio:g}"


@dataclass(frozen=True)
class RandomStage(Stage):
    """Masks a random fraction of each row, up to a limit: see `random_mask`."""

    max_masked_ratio: float
    val_loss_stale_count: int
    type: ClassVar[str] = "random"

    def choose(self, rows: Rows, generator: torch.Generator) -> torch.Tensor:
        return random_mask(rows.tokens, self.max_masked_ratio, generator, rows.lengths)

    def describe(self) -> str:
        """Return for instance `random, up to 0.50`."""
        return f"{self.type}, up to {_short(self.max_masked_ratio)}"

    def target(self) -> str:
        """Return for instance `0-0.5`."""
        return f"0-{self.max_masked_ratio:g}"


@dataclass(frozen=True)
class SpanStage(Stage):
    """Masks a number of spans in each row: see `span_mask`."""

    spans_count: int
    val_loss_stale_count: int
    type: ClassVar[str] = "span"
    corrupts: ClassVar[bool] = False

    def choose(self, rows: Rows, generator: torch.Generator) -> torch.Tensor:
        return span_mask(rows.tokens, self.spans_count, generator, rows.lengths)

    def describe(self) -> str:
        """Return for instance `span, 20 spans`."""
        return f"{self.type}, {self.spans_count} span{'' if self.spans_count == 1 else 's'}"

    def target(self) -> str:
        """Return `about 0.5`, the fraction that random spans cover for any number of spans."""
        return "about 0.5"

    def misfit(self, block_size: int, has_newline: bool) -> str | None:
        if self.spans_count <= block_size:
            return None
        return (
            f"spans_count is {self.spans_count}, wanted {block_size} or fewer, as a text has {block_size} tokens: "
            "lower spans_count or raise block_size"
        )


@dataclass(frozen=True)
class LineStage(Stage):
    """Masks a random fraction of the lines of each row: see `line_mask`."""

    min_ratio: float
    max_ratio: float
    val_loss_stale_count: int
    type: ClassVar[str] = "line"

    def choose(self, rows: Rows, generator: torch.Generator) -> torch.Tensor:
        if rows.newline_id is None:
            raise ConfigError("a line stage needs a newline in the vocabulary: use another data set, or other stages")
        return line_mask(rows.tokens, rows.newline_id, self.min_ratio, self.max_ratio, generator, rows.lengths)

    def describe(self) -> str:
        """Return for instance `line, 0.10 to 0.45 of the lines`."""
        return f"{self.type}, {_short(self.min_ratio)} to {_short(self.max_ratio)} of the lines"

    def target(self) -> str:
        """Return for instance `0.1-0.45`."""
        return f"{self.min_ratio:g}-{self.max_ratio:g}"

    def misfit(self, block_size: int, has_newline: bool) -> str | None:
        if has_newline:
            return None
        return "the vocabulary has no newline, so there are no lines: use another data set, or other stages"


@dataclass(frozen=True)
class UniformStage(Stage):
    """Masks each position with the same probability, as runs without stages do."""

    mask_probability: float
    val_loss_stale_count: int = 0
    type: ClassVar[str] = "uniform"

    def choose(self, rows: Rows, generator: torch.Generator) -> torch.Tensor:
        return uniform_mask(rows.tokens, self.mask_probability, generator, rows.lengths)

    def describe(self) -> str:
        """Return for instance `uniform, 0.15`."""
        return f"{self.type}, {_short(self.mask_probability)}"

    def target(self) -> str:
        """Return for instance `0.15`."""
        return f"{self.mask_probability:g}"


STAGES: dict[str, type[Stage]] = {
    stage.type: stage for stage in (StickyStage, RandomStage, SpanStage, LineStage, UniformStage)
}


def create_stage_objects(dicts: Sequence[Mapping[str, Any]] | None, where: str = "unmasking_stages") -> list[Stage]:
    """Return the stages that a list of dicts describes; ConfigError lists all mistakes in all of them.

    where: name of the option; in `validation_stages` the key `val_loss_stale_count` is optional
    """
    if dicts is None:
        return []
    if not isinstance(dicts, Sequence) or isinstance(dicts, str):
        raise ConfigError(f"{where} is {dicts!r}, wanted a list of dicts such as {{'type': 'random', ...}}")
    stages, problems = [], []
    for number, entry in enumerate(dicts):
        try:
            stages.append(_stage(entry, stale_count_needed=where != "validation_stages"))
        except ConfigError as error:
            problems.append(f"{where}[{number}], {entry!r}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return stages


def check_stages(
    stages: Sequence[Stage], block_size: int, *, has_newline: bool = True, where: str = "unmasking_stages"
) -> None:
    """Raise ConfigError when a stage cannot mask rows of `block_size` tokens, or needs a newline token."""
    for number, stage in enumerate(stages):
        if misfit := stage.misfit(block_size, has_newline):
            raise ConfigError(f"{where}[{number}] ({stage.describe()}): {misfit}")


def rows_per_stage(rows: int, stages: Sequence[Stage]) -> list[int]:
    """Return how many rows each stage masks: the same number, and one more for the first stages if rows remain."""
    each, rest = divmod(rows, len(stages))
    return [each + (number < rest) for number in range(len(stages))]


def mask_rows(
    tokens: torch.Tensor,
    stages: Sequence[Stage],
    generator: torch.Generator,
    *,
    mask_token_id: int,
    vocab_size: int,
    newline_id: int | None = None,
    lengths: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mask the first rows by the first stage, the next rows by the second stage, and so on.

    Return the model's inputs (B, T) int64, the positions to predict (B, T) bool, and each row's stage (B,) int64.

    vocab_size: random tokens are drawn from [0, vocab_size); special tokens are not part of it
    lengths:    (B,) tokens of each row before its padding
    """
    counts = rows_per_stage(len(tokens), stages)
    parts = torch.split(tokens, counts)
    sizes = [None] * len(counts) if lengths is None else torch.split(lengths, counts)
    mask = torch.cat(
        [stage.mask(part, generator, size, newline_id) for stage, part, size in zip(stages, parts, sizes, strict=True)]
    )
    stage_index = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    corrupted = corrupt(tokens, mask, mask_token_id, vocab_size, generator)
    hidden = torch.tensor([not stage.corrupts for stage in stages])[stage_index]
    return corrupted.masked_fill(mask & hidden[:, None], mask_token_id), mask, stage_index


def _stage(entry: Mapping[str, Any], *, stale_count_needed: bool) -> Stage:
    """Return the stage that a dict describes; ConfigError lists its mistakes."""
    if not isinstance(entry, Mapping):
        raise ConfigError("wanted a dict with a type and its fields")
    known = ", ".join(STAGES)
    if "type" not in entry:
        raise ConfigError(f"type is missing, wanted one of {known}")
    if not isinstance(entry["type"], str) or entry["type"] not in STAGES:
        raise ConfigError(f"type is {entry['type']!r}, wanted one of {known}")
    stage = STAGES[entry["type"]]
    names = {field.name: field.default is MISSING for field in fields(stage)}  # type: ignore[arg-type]
    names["val_loss_stale_count"] &= stale_count_needed
    problems = [f"{name} is missing" for name, needed in names.items() if needed and name not in entry]
    unknown = [name for name in entry if name not in names and name != "type"]
    problems += [f"{name!r} is unknown, wanted {', '.join(names)}" for name in unknown]
    values: dict[str, float] = {"val_loss_stale_count": 0}
    for name in [name for name in names if name in entry]:
        try:
            values[name] = _value(name, entry[name])
        except ConfigError as error:
            problems.append(str(error))
    if not problems and values.get("min_ratio", 0) > values.get("max_ratio", 1):
        problems.append(f"min_ratio is {values['min_ratio']}, wanted max_ratio={values['max_ratio']} or less")
    if problems:
        raise ConfigError("; ".join(problems))
    return stage(**values)


def _value(name: str, value: Any) -> float:
    """Return the value of a field; text that is a number is accepted, because YAML reads 1e-1 as text."""
    if name in {"spans_count", "val_loss_stale_count"}:
        minimum = 1 if name == "spans_count" else 0
        if isinstance(value, int) and not isinstance(value, bool) and value >= minimum:
            return value
        raise ConfigError(f"{name} is {value!r}, wanted a whole number of {minimum} or more")
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if name == "p1_probability" and number == 0:
        raise ConfigError(f"{name} is {value!r}, wanted more than 0: nothing would ever be masked")
    if 0 <= number <= 1:
        return number
    raise ConfigError(f"{name} is {value!r}, wanted a number from 0 to 1")


def _short(value: float) -> str:
    """Return a number with two decimals, or with more if it needs them."""
    return f"{value:.2f}" if round(value, 2) == value else f"{value:g}"
