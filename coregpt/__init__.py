"""coreGPT from Python."""
