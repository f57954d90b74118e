"""Everything about unstable updates: noticing them, agreeing on them across ranks, explaining them, recovering."""
