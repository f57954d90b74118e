"""Campaigns: small runs are killed, stopped and damaged, and must end in the same state as undisturbed runs."""
