"""Where training text becomes tokens: tokenizers, the files they are kept in, and one folder per data set."""
