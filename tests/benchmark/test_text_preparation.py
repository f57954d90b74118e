"""The comparison of the preparation of a text with tiktoken's batches, on a small text and vocabulary."""

from pathlib import Path

import pytest

from benchmark import text_preparation
from benchmark.text_preparation import are_equal, peak_memory, repeat, time_ratios
from tests.data.preparation.small_encoding import use_for_gpt2


def test_both_ways_are_timed_and_their_ids_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_for_gpt2(monkeypatch)
    (tmp_path / "a").write_text("the king's\n")
    text = repeat(tmp_path / "a", tmp_path / "b", 1000)
    ratios = time_ratios(tmp_path / "b", text, tmp_path / "out", workers=2, rounds=2)

    assert len(ratios) == 2 and min(ratios) > 0
    assert text == ("the king's\n" * 99)[:1000] == (tmp_path / "b").read_text()
    assert capsys.readouterr().out.count("million characters per second") == 2
    assert are_equal(text, tmp_path / "out")
    assert not are_equal("and" + text[3:], tmp_path / "out")


def test_the_memory_is_that_of_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With bytes, which need no vocabulary."""
    (tmp_path / "a").write_text("abc\n" * 1000)
    monkeypatch.setattr(text_preparation, "WITH_PEAK", text_preparation.WITH_PEAK.replace("main()", "main(BYTES)"))
    given = "import sys; BYTES = [a.replace('gpt2', 'byte') for a in sys.argv[2:]]"
    monkeypatch.setattr(text_preparation, "WITH_PEAK", given + text_preparation.WITH_PEAK)

    assert 10 < peak_memory(tmp_path / "a", tmp_path / "out", 1) < 200
