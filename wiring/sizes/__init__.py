"""Sizes of a run that follow from its data and its machine: the batch that fits, and the updates of its epochs."""
