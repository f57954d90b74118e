"""`python -m coregpt`, and `torchrun -m coregpt`: the command `coregpt` where it is not on the path."""

from coregpt.command_line import main

if __name__ == "__main__":
    main("python -m coregpt")
