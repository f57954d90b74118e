"""Wiring: the one place that turns an options object into the parts of a run."""
