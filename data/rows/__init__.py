"""Rows of text as training data: opened, encoded, ordered, packed and collated."""
