"""Makes a data set of texts of any size: reads them in pieces, trains a tokenizer, encodes in parallel, resumes."""
