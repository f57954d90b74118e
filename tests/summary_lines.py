"""Tells the summary at the end of a run from other lines on stderr."""

import re

SUMMARY = r"validation loss: |training loss: |[\d,]+ updates? in |saved in |to (go on|train longer|sample): "


def without_summary(err: str) -> str:
    """Return what is on stderr, without the summary at the end of a run."""
    return "".join(line for line in err.splitlines(keepends=True) if not re.match(SUMMARY, line))
