"""The masking report: its table, its coloured texts, its page and its picture."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from core.errors import ConfigError
from data.meta import write_meta
from tools.masking_report import BLOCK, LINEAR, cluster_edges, for_terminal, main, page, pieces, table
from tools.masking_samples import GIVEN, HIDDEN, KEPT, PADDING, REPLACED, Rows, Sample

STICKY = {"type": "sticky", "target_masked_ratio": 0.4, "p1_probability": 0.1, "p2_probability": 0.3}
STAGES = [{**STICKY, "val_loss_stale_count": 1}]
LETTERS = "a<\ncd#"


def decode(token: int) -> str:
    return LETTERS[token]


@pytest.fixture
def sample() -> Sample:
    """Return two texts of `a<\\ncd`, one with every kind of token, one with nothing masked and half padding."""
    answer = torch.tensor([[0, 1, 2, 3, 4], [0, 1, 5, 5, 5]])
    seen = torch.tensor([[0, 5, 2, 0, 4], [0, 1, 5, 5, 5]])
    kinds = torch.tensor([[GIVEN, HIDDEN, KEPT, REPLACED, GIVEN], [GIVEN, GIVEN, PADDING, PADDING, PADDING]])
    return Sample("train 0: by hand", "0.3", Rows(seen, answer, kinds))


def test_the_table_has_the_figures_of_each_stage(sample: Sample) -> None:
    heading, figures = table([sample]).splitlines()

    assert heading.split() == ["stage", "target", "mean", "min", "max", "mean", "cluster", "largest"]
    assert figures.removeprefix(sample.title).split() == ["0.3", "0.300", "0.000", "0.600", "3.0", "3"]


def test_a_stage_without_masks_has_no_clusters(sample: Sample) -> None:
    untouched = sample._replace(rows=Rows(*(values[1:] for values in sample.rows)))

    assert table([untouched]).split()[-3:] == ["0.000", "-", "-"]


def test_a_text_is_split_where_the_kind_changes(sample: Sample) -> None:
    assert pieces(sample.rows, 0, decode) == [
        (GIVEN, "a", "a"), (HIDDEN, BLOCK, "<"), (KEPT, "↵\n", "↵\n"), (REPLACED, "a", "c"), (GIVEN, "d", "d"),
    ]  # fmt: skip
    assert pieces(sample.rows, 1, decode) == [(GIVEN, "a<", "a<")]  # padding is skipped
    assert pieces(sample.rows, 0, decode, max_tokens=2) == [(GIVEN, "a", "a"), (HIDDEN, BLOCK, "<")]


def test_a_terminal_gets_colours_and_a_file_none(sample: Sample) -> None:
    parts = pieces(sample.rows, 0, decode)

    assert for_terminal(parts, colored=False) == f"a{BLOCK}↵\nad"
    assert for_terminal(parts, colored=True) == f"a\x1b[34m{BLOCK}\x1b[0m\x1b[1;32m↵\n\x1b[0m\x1b[1;31ma\x1b[0md"


def test_the_page_shows_both_sides_and_escapes_the_text(sample: Sample) -> None:
    text = page([sample], decode, 1, "a & b")

    assert "<h1>a &amp; b</h1>" in text and "60% of this text is masked" in text
    assert f'<span class="hidden">{BLOCK}</span>' in text and '<span class="hidden">&lt;</span>' in text
    assert '<span class="replaced">a</span>' in text and '<span class="replaced">c</span>' in text
    assert text.count("what the model sees<pre>") == 1 and 'src="masking.png"' in text


@pytest.mark.parametrize("longest", [1, 2, LINEAR, LINEAR + 1, 1024])
def test_every_cluster_size_falls_into_one_bar(longest: int) -> None:
    edges = cluster_edges(longest)

    assert edges[0] == 0.5 and edges[-1] == longest + 0.5
    assert edges == sorted(set(edges)) and len(edges) <= LINEAR + 2


def test_the_program_prints_and_writes_everything(
    run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    main([*tiny_argv, "--training_type=unmasking", f"--unmasking_stages={STAGES}", "--out", "seen", "--sequences=9"])
    printed, written = capsys.readouterr().out, (run_dir / "seen" / "masking.html").read_text(encoding="utf-8")

    assert "train 0: sticky, target 0.40, p1 0.10, p2 0.30     0.4  0.438  0.438  0.438" in printed
    assert "--- val 0: sticky" in printed and BLOCK in printed and "\x1b" not in printed
    assert written.count("what the model sees<pre>") == 6 and "val 0: sticky" in written
    assert (run_dir / "seen" / "masking.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_tokenizer_texts_are_ids(
    run_dir: Path, tiny_bins: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    write_meta(tiny_bins / "meta.pkl", {"vocab_size": 17})
    main([*tiny_argv, "--training_type=token_classification", "--sequences=4"])
    printed = capsys.readouterr()
    text = printed.out.partition("--- train: replaced as in iteration 0\n")[2].partition("\n")[0]

    assert "texts are shown as token ids" in printed.err
    assert len(text.split()) == 16 and all(token.isdigit() for token in text.split())


def test_without_options_it_prints_its_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2 and "no options given: give a config file" in capsys.readouterr().err


def test_a_wrong_count_is_refused(run_dir: Path, tiny_argv: list[str]) -> None:
    with pytest.raises(ConfigError, match="--sequences=0: wanted 1 or more"):
        main([*tiny_argv, "--training_type=unmasking", "--sequences=0"])


def test_the_program_ends_with_a_message_and_status_2() -> None:
    command = [sys.executable, "-m", "tools.masking_report", "--dataset=absent", "--training_type=unmasking"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[2])

    assert done.returncode == 2 and done.stderr.startswith("error: ") and "absent" in done.stderr
