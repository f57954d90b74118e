"""The samples of the masking report: training batches by stage, and statistics of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from config.options import Options
from configurator import configure
from core import Runtime
from core.errors import ConfigError
from tools.masking_samples import (
    GIVEN,
    HIDDEN,
    KEPT,
    PADDING,
    REPLACED,
    Rows,
    classify_tokens,
    cluster_sizes,
    draw_samples,
    kind_shares,
    masked_ratios,
    open_all_stages,
)
from wiring.data import RunData

STICKY = {"type": "sticky", "target_masked_ratio": 0.4, "p1_probability": 0.1, "p2_probability": 0.3}
STAGES = [{**STICKY, "val_loss_stale_count": 1}, {"type": "span", "spans_count": 3, "val_loss_stale_count": 1}]


@contextmanager
def opened(argv: Sequence[str], **values: object) -> Iterator[tuple[Options, RunData]]:
    options = configure(Options, [*argv, *(f"--{name}={value}" for name, value in values.items())])
    with Runtime(device="cpu", seed=options.seed) as runtime:
        yield options, open_all_stages(options, runtime)


def rows_of(*kinds: Sequence[int]) -> Rows:
    return Rows(torch.zeros(len(kinds), len(kinds[0])), torch.zeros(len(kinds), len(kinds[0])), torch.tensor(kinds))


@given(
    st.integers(1, 5).flatmap(
        lambda width: st.lists(st.lists(st.booleans(), min_size=width, max_size=width), min_size=1)
    )
)
def test_clusters_are_the_runs_of_each_row(mask: list[list[bool]]) -> None:
    runs = [len(list(run)) for row in mask for masked, run in groupby(row) if masked]

    assert cluster_sizes(torch.tensor(mask)).tolist() == runs


def test_masked_ratios_ignore_padding() -> None:
    rows = rows_of([HIDDEN, REPLACED, KEPT, GIVEN], [HIDDEN, GIVEN, PADDING, PADDING], [PADDING] * 4)

    assert masked_ratios(rows).tolist() == [0.75, 0.5, 0.0]


def test_kind_shares_are_fractions_of_the_masked_positions() -> None:
    shares = kind_shares(rows_of([HIDDEN, HIDDEN, KEPT, REPLACED], [GIVEN, GIVEN, PADDING, HIDDEN]))

    assert shares == {HIDDEN: 0.6, REPLACED: 0.2, KEPT: 0.2}
    assert kind_shares(rows_of([GIVEN])) == {HIDDEN: 0.0, REPLACED: 0.0, KEPT: 0.0}


def test_tokens_of_a_batch_are_classified() -> None:
    seen, targets = torch.tensor([[5, 17, 9, 7, 23]]), torch.tensor([[-1, 3, 3, 7, -1]])
    rows = classify_tokens(seen, targets, mask_id=17, pad_id=23)

    assert rows.kinds.tolist() == [[GIVEN, HIDDEN, REPLACED, KEPT, PADDING]]
    assert rows.answer.tolist() == [[5, 3, 3, 7, 23]]


def test_samples_equal_the_batches_of_training(run_dir: Path, tiny_argv: list[str]) -> None:
    with opened(tiny_argv, training_type="unmasking", unmasking_stages=STAGES[:1]) as chosen:
        batches = chosen[1].batches
        batch = batches.get_batch("train")
        batches.drawn = 0
        sample = draw_samples(*chosen, 20)[0]

    assert sample.rows.seen[:4].tolist() == batch["input"].tolist()
    assert torch.equal(sample.rows.mask[:4], batch["target"] >= 0)


def test_samples_are_drawn_from_all_stages_of_training(run_dir: Path, tiny_argv: list[str]) -> None:
    uniform = [{"type": "uniform", "mask_probability": 0.2}]
    with opened(tiny_argv, training_type="unmasking", unmasking_stages=STAGES, validation_stages=uniform) as chosen:
        samples = draw_samples(*chosen, 30)

    assert [(sample.title.partition(",")[0], sample.target) for sample in samples] == [
        ("train 0: sticky", "0.4"), ("train 1: span", "about 0.5"), ("val 0: uniform", "0.2"),
    ]  # fmt: skip
    assert [len(sample.rows.seen) for sample in samples] == [30, 30, 8]  # 2 batches of 4 in an evaluation
    assert set(masked_ratios(samples[0].rows).tolist()) == {7 / 16}  # 0.4 of 16, rounded up
    assert kind_shares(samples[1].rows)[HIDDEN] == 1  # every masked token of a span is hidden


def test_padding_is_distinguished_from_text(run_dir: Path, tiny_argv: list[str]) -> None:
    values = {"mask_probability": 1, "enable_line_aligned_sequences": True}
    with opened(tiny_argv, training_type="unmasking", **values) as chosen:
        rows = draw_samples(*chosen, 20)[0].rows

    assert masked_ratios(rows).tolist() == [1.0] * 20
    assert (rows.kinds == PADDING).any()


def test_a_scorers_texts_have_only_mask_tokens_or_nothing_masked(run_dir: Path, tiny_argv: list[str]) -> None:
    values = {"unmasking_stages": STAGES, "unmasking_model_checkpoint": "elsewhere", "eval_iters": 10}
    with opened(tiny_argv, training_type="sequence_scoring", **values) as chosen:
        samples = draw_samples(*chosen, 20)
    ratios = [ratio for sample in samples if sample.title.startswith("val") for ratio in masked_ratios(sample.rows)]

    assert [kind_shares(sample.rows)[HIDDEN] for sample in samples] == [1.0] * 4
    assert ratios.count(0) >= 4  # a tenth of 40 texts


def test_a_classifiers_replacements_grow_over_the_warm_up(run_dir: Path, tiny_argv: list[str]) -> None:
    shares = {"guaranteed_unmasked_max": 0.75, "guaranteed_unmasked_min": 0.25, "random_mask_warmup": 100}
    with opened(tiny_argv, training_type="token_classification", p1_p2_ratio=2, **shares) as chosen:
        first, middle, last, val = draw_samples(*chosen, 8)

    assert [masked_ratios(sample.rows).mean().item() for sample in (first, middle, last)] == [0.25, 0.5, 0.75]
    assert first.target == "0.25" and first.title == "train: replaced as in iteration 0"
    assert val.title.startswith("val: replaced as in iteration 3") and kind_shares(val.rows)[REPLACED] == 1


def test_a_language_model_has_no_masks(run_dir: Path, tiny_argv: list[str]) -> None:
    with opened(tiny_argv) as chosen, pytest.raises(ConfigError, match="language_model has no masks.*wanted unmasking"):
        draw_samples(*chosen, 8)
