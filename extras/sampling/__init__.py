"""What `sample.py` does with models that do not write from left to right: filling masks, labelling, scoring."""
