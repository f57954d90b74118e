"""The mistakes and mishaps a user can meet: one class each, one message, one exit status."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130  # the shell's convention: 128 + SIGINT
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, come back later


class CoreGPTError(Exception):
    """Base of the errors that end a program with one clear message instead of a traceback."""

    exit_status = 2


class ConfigError(CoreGPTError, ValueError):
    """An option, a config file or the command line is wrong."""


class DataError(CoreGPTError, ValueError):
    """A data set is missing, damaged, or does not fit the model."""


class CheckpointError(CoreGPTError, RuntimeError):
    """A checkpoint is missing, damaged, or belongs to another model."""


class DivergedError(CoreGPTError, RuntimeError):
    """Training reached numbers that no further update can mend."""

    exit_status = 3


class SaveError(CoreGPTError, OSError):
    """The final checkpoint could not be written: what was learnt since the one before is lost."""

    exit_status = 4

    def __init__(self, message: str) -> None:  # one argument: OSError reads two as an error number and its text
        super().__init__(message)


class PreemptedError(CoreGPTError):
    """Training stopped early, as it was asked to, with all of it saved: no failure, so its message stands alone."""

    def __init__(self, message: str, exit_status: int = TRY_AGAIN) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class WarnOnce:
    """Logs a warning the first time its cause comes up, and nothing after that."""

    def __init__(self) -> None:
        self._causes: set[str] = set()

    def __call__(self, text: str, cause: str | None = None) -> None:
        """Log `text` as a warning. cause: calls with the same cause count as one; None: calls with the same text do."""
        cause = cause or text
        if cause not in self._causes:
            self._causes.add(cause)
            logging.getLogger("coregpt").warning(text)


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Turn the errors above into their message on stderr and their exit status: for the door of a program."""
    try:
        yield
    except CoreGPTError as error:
        print(error if isinstance(error, PreemptedError) else f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        print("stopped by Ctrl-C; --init_from=resume goes on from the last checkpoint", file=sys.stderr)
        sys.exit(INTERRUPTED)
