"""Everything about checkpoints: what is in one, when it is written, where it lies, and how a run resumes from it."""
