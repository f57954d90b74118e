"""What the machine has: its memory."""
