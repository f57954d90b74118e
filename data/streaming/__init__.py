"""Batches made ahead of training by another program, and handed over in a folder of files: the queue."""
