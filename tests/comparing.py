"""Bitwise comparison of nested values."""

from typing import Any

import torch


def assert_same(ours: Any, theirs: Any) -> None:
    """Assert that two nested values are equal, and their tensors bit for bit."""
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert list(ours) == list(theirs)
        for key in ours:
            assert_same(ours[key], theirs[key])
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for our_part, their_part in zip(ours, theirs, strict=True):
            assert_same(our_part, their_part)
    elif torch.is_tensor(ours):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    else:
        assert ours == theirs
