"""The functions that train.py calls."""

import wiring


def test_public_names_are_sorted_and_exist() -> None:
    assert wiring.__all__ == sorted(set(wiring.__all__))
    assert all(hasattr(wiring, name) for name in wiring.__all__)
