"""What `sample.py` does with models that do not write from left to right: filling masks step by step, labelling."""
