"""The options (`options.py`), the form they are declared in (`schema.py`), and the presets."""
