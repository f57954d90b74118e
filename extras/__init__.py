"""Optional features: each is a file or folder that can be deleted together with its `if` in `wiring`."""
