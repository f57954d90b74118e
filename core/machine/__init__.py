"""What a run runs on: its processes and how they find each other, its memory."""
