"""The options (`options.py`), the class that declares them (`schema.py`), and the presets."""
