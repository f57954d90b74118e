"""Models of Hugging Face in a run, and the rows of text that they learn from, made from the options object."""
