"""The ways in which sample.py answers: continue text, fill masks, label tokens, score texts."""
