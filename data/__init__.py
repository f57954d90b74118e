"""Data sources for training: tokenizers, token files, masking, the streaming queue, and one folder per data set."""
