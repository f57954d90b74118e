"""Inputs of the fuzz campaign: command lines, config files, data files and checkpoints, as users may bring them."""
