"""Pictures of evaluations and fillings, drawn from plain values, some of which may be missing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tools.objective_pictures import (
    BACKGROUNDS,
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
    filling_figure,
    scatter_figure,
    timeline_figure,
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


def test_a_filling_is_larger_with_more_rows_and_longer_tokens(tmp_path: Path) -> None:
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


def test_a_timeline_is_drawn_when_evaluations_lack_some_stages(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw_timeline(EVALUATIONS, [(50, 1)], ["random", "span", "line"], tmp_path / "x.png")

    assert size(tmp_path / "x.png") == (800, 420)


# the content of the figures


@pytest.fixture
def pyplot() -> Iterator[Any]:
    """Return pyplot; its figures are closed after the test."""
    pytest.importorskip("matplotlib").use("Agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def points(coordinates: Any) -> list[tuple[float, float]]:
    return [(round(x, 6), round(y, 6)) for x, y in coordinates]


def test_a_filling_shows_every_character_but_the_masked_ones(pyplot: Any) -> None:
    (axes,) = filling_figure(ROWS).axes

    drawn = {(text.get_position()[1], text.get_text(), text.get_position()[0]) for text in axes.texts}

    labels = {(number, label, -1) for number, (label, _) in enumerate(ROWS)}
    second = {(1, char, 1.5 + index) for index, char in enumerate("house")} | {(1, "a", 0.5), (1, "c", 6.5)}
    third = {(2, char, 1.5 + index) for index, char in enumerate("the")} | {(2, "a", 0.5), (2, "c", 6.5)}
    assert drawn == labels | {(0, "a", 0.5)} | second | third


def test_a_filling_colours_all_tokens_but_the_given_ones(pyplot: Any) -> None:
    from matplotlib.colors import to_hex

    (axes,) = filling_figure(ROWS).axes

    drawn = {(round(patch.get_y() + 0.42), patch.get_x(), patch.get_width(), to_hex(patch.get_facecolor()))
             for patch in axes.patches}  # fmt: skip
    assert drawn == {
        (0, 1, 5, BACKGROUNDS[MASKED]), (0, 6, 1, BACKGROUNDS[MASKED]), (1, 1, 5, BACKGROUNDS[NEW]),
        (1, 6, 1, BACKGROUNDS[FILLED]), (2, 1, 5, BACKGROUNDS[WRONG]), (2, 6, 1, BACKGROUNDS[RIGHT]),
    }  # fmt: skip


def test_a_scatter_separates_untouched_texts_from_filled_ones(pyplot: Any) -> None:
    (axes,) = scatter_figure([0.0, 0.5, 0.9], [0.2, 0.4, 0.8], FIGURES).axes

    drawn = {item.get_label(): points(item.get_offsets()) for item in axes.collections}
    assert drawn == {"filled texts": [(0.5, 0.4), (0.9, 0.8)], "untouched texts": [(0.0, 0.2)]}
    truth, mean = (points(zip(*line.get_data(), strict=True)) for line in axes.lines)
    assert truth == [(0, 0), (1, 1)] and {y for _, y in mean} == {round(1.4 / 3, 6)}
    assert axes.get_title() == "correlation 0.90, error 0.25 of the constant predictor's"


def test_a_timeline_has_a_line_for_every_stage_that_was_evaluated(pyplot: Any) -> None:
    (axes,) = timeline_figure(EVALUATIONS, [(50, 1)], ["random", "span", "line"]).axes

    lines = {line.get_label(): points(zip(*line.get_data(), strict=True)) for line in axes.lines}
    assert {label: item for label, item in lines.items() if not label.startswith("_")} == {
        "stage 0: random": [(0, 4.0), (50, 3.0)],
        "stage 1: span": [(0, 4.2)],
        "all stages": [(0, 4.1), (50, 3.1), (90, 2.5)],
        "training texts, of the stages begun": [(0, 4.0), (50, 3.0), (90, 2)],
    }
    assert [item for label, item in lines.items() if label.startswith("_")] == [[(50, 0), (50, 1)]]
    assert [(text.get_text(), text.xy[0]) for text in axes.texts] == [("stage 0", 25), ("stage 1", 70)]
