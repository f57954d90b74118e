"""Pictures of what a run has learnt: each is drawn from plain values, whatever is missing among them."""

import sys
from pathlib import Path

import pytest

from core.errors import ConfigError
from tools.objective_pictures import (
    FILLED,
    GIVEN,
    MASKED,
    NEW,
    RIGHT,
    WRONG,
    Cell,
    Evaluation,
    draw_filling,
    draw_scatter,
    draw_timeline,
)

ROWS = [
    ("masked", [Cell("a", GIVEN), Cell("the", MASKED), Cell("b", MASKED)]),
    ("step 1", [Cell("a", GIVEN), Cell("house", NEW), Cell("c", FILLED)]),
    ("original", [Cell("a", GIVEN), Cell("the", WRONG), Cell("c", RIGHT)]),
]
FIGURES = {"val/mse_ratio": 0.25, "val/correlation": 0.9}
EVALUATIONS = [
    Evaluation(0, 4.0, 4.1, {0: 4.0, 1: 4.2}),
    Evaluation(50, 3.0, 3.1, {0: 3.0}),
    Evaluation(90, 2, 2.5, {}),
]


def size(file: Path) -> tuple[int, int]:
    content = file.read_bytes()
    assert content.startswith(b"\x89PNG")
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


def test_a_filling_grows_with_its_rows_and_its_longest_tokens(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw_filling(ROWS, tmp_path / "x.png")
    draw_filling([*ROWS[:1], *ROWS], tmp_path / "more.png")
    draw_filling([(label, [*cells, Cell("longer", GIVEN)]) for label, cells in ROWS], tmp_path / "wide.png")
    width, height = size(tmp_path / "x.png")

    assert size(tmp_path / "more.png")[0] == width and size(tmp_path / "more.png")[1] > height
    assert size(tmp_path / "wide.png")[0] > width and size(tmp_path / "wide.png")[1] == height


@pytest.mark.parametrize("targets", [[0.1, 0.5, 0.9], [0.0, 0.5, 0.9], [0.0, 0.0, 0.0]])
def test_a_scatter_is_drawn_with_untouched_texts_and_without(targets: list[float], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw_scatter(targets, [0.2, 0.4, 0.8], FIGURES, tmp_path / "x.png")

    assert size(tmp_path / "x.png") == (560, 460)


def test_a_timeline_is_drawn_where_not_every_evaluation_knows_every_stage(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw_timeline(EVALUATIONS, [(50, 1)], ["random", "span", "line"], tmp_path / "x.png")

    assert size(tmp_path / "x.png") == (800, 420)


def test_without_matplotlib_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    with pytest.raises(ConfigError, match=r"pip install -e '\.\[report\]'"):
        draw_filling(ROWS, tmp_path / "x.png")
