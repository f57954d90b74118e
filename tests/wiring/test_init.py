"""The functions that train.py calls."""

import inspect

import wiring


def test_public_names_are_sorted_exist_and_have_a_docstring() -> None:
    assert wiring.__all__ == sorted(set(wiring.__all__))
    assert [name for name in wiring.__all__ if not inspect.getdoc(getattr(wiring, name))] == []
