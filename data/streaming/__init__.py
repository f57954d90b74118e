"""The queue: a folder of batch files that one program makes ahead and training consumes."""
