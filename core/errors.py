"""How a program ends: errors with one message and an exit status, a closed stdout; and warnings that come once."""

import errno
import importlib.util
import logging
import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TextIO

log = logging.getLogger("coregpt")
INTERRUPTED = 130  # the shell's convention: 128 + SIGINT
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: not a failure, start the run again later


NOBODY_READS = (errno.EPIPE, errno.EIO)  # of a pipe, and of a terminal that is closed
GRACE_SECONDS = 5.0  # in which a launcher ends the other ranks when one of them has failed


class CoreGPTError(Exception):
    """Base of the errors that end a program with one clear message instead of a traceback."""

    exit_status = 2
    is_printed_at_once: bool | None = None  # under torchrun; by default on local rank 0, and later on the others


class ConfigError(CoreGPTError, ValueError):
    """An option, a config file or the command line is wrong."""


class DataError(CoreGPTError, ValueError):
    """A data set is missing, damaged, or does not fit the model."""


class CheckpointError(CoreGPTError, RuntimeError):
    """A checkpoint is missing, damaged, or belongs to another model."""


class GroupError(CoreGPTError, RuntimeError):
    """The processes of a run could not find each other."""

    exit_status = TRY_AGAIN


class DivergedError(CoreGPTError, RuntimeError):
    """Training became unstable, and no recovery is left."""

    exit_status = 3


class SaveError(CoreGPTError, OSError):
    """The final checkpoint could not be written: the updates since the previous one are lost."""

    exit_status = 4

    def __init__(self, message: str) -> None:  # one argument: OSError reads two as an error number and its text
        super().__init__(message)


class PreemptedError(CoreGPTError):
    """Training stopped early on request, with its state saved. Not a failure: the message has no `error:`."""

    def __init__(self, message: str, exit_status: int = TRY_AGAIN) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class WarnOnce:
    """Logs a warning the first time its cause comes up, and nothing after that."""

    def __init__(self) -> None:
        self._causes: set[str] = set()

    def __call__(self, text: str, cause: str | None = None) -> None:
        """Log `text`. cause: what counts as the same warning; by default the text"""
        cause = text if cause is None else cause
        if cause not in self._causes:
            log.warning(text)
        self._causes.add(cause)


def require_packages(*names: str) -> None:
    """End the program with one message if it cannot import these packages. names: as they are imported"""
    if missing := [name for name in names if importlib.util.find_spec(name) is None]:
        folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        command = f"{sys.executable} -m pip install -e {folder}"
        print(f"error: {sys.executable} has no package {', '.join(missing)}: run `{command}`", file=sys.stderr)
        sys.exit(2)


def is_rank_0() -> bool:
    """Return whether this process is rank 0 or alone: RANK is not set, empty, -1 or 0, as in nanoGPT."""
    return os.environ.get("RANK", "").strip() in ("", "-1", "0")


@contextmanager
def exit_on_error(outlives_stdout: bool = False) -> Iterator[None]:
    """Turn the errors above into their message on stderr and their exit status, around a program's `main`.

    Characters that stdout cannot encode are replaced. If the reader of stdout has gone (`| head`), the program ends
    quietly, or with `outlives_stdout` goes on without it.

    Under torchrun an error of all ranks is printed once per machine: the others wait, and torchrun ends them meanwhile.
    An error in training is printed by the rank on which it came first.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    stdout = sys.stdout
    if outlives_stdout and stdout is not None:
        sys.stdout = LastingStream(stdout)
    if sys.stderr is None:  # closed before the start, by cron for example; print would take stdout in its place
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    try:
        yield
        with suppress(ValueError, AttributeError):  # it is closed, or there is none
            sys.stdout.flush()
    except BrokenPipeError:
        if not _is_abandoned(sys.stdout):
            raise
    except PreemptedError as error:
        if is_rank_0():
            _print_on_stderr(str(error))
        sys.exit(error.exit_status)
    except CoreGPTError as error:
        at_once = error.is_printed_at_once
        at_once = os.environ.get("LOCAL_RANK", "0") == "0" if at_once is None else at_once
        if "TORCHELASTIC_RUN_ID" in os.environ and not at_once:
            time.sleep(GRACE_SECONDS)
        _print_on_stderr(f"error: {error}")
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        _print_on_stderr("stopped by Ctrl-C; --init_from=resume goes on from the last checkpoint")
        sys.exit(INTERRUPTED)
    except OSError as error:
        if error.errno != errno.ENOSPC or not _is_full(stdout):
            raise
        _redirect_to_nothing(stdout)
        _print_on_stderr(f"error: stdout cannot be written ({error.strerror}): give it another place")
        sys.exit(ConfigError.exit_status)
    finally:
        sys.stdout = stdout
        if _is_abandoned(stdout):  # Python would report it when it flushes stdout at the end
            _redirect_to_nothing(stdout)


def print_and_exit(text: str) -> NoReturn:
    """Print what a program was asked for in place of its work, such as its help; end it, also if nobody reads that."""
    stream = sys.stdout.stream if isinstance(sys.stdout, LastingStream) else sys.stdout
    try:
        print(text, file=stream, flush=True)
    except OSError as error:
        _redirect_to_nothing(stream)  # Python would try again at the end
        if error.errno not in NOBODY_READS:
            raise ConfigError(f"stdout cannot be written ({error.strerror}): give it another place") from None
    sys.exit(0)


def _print_on_stderr(text: str) -> None:
    with suppress(OSError):  # the terminal may be closed
        print(text, file=sys.stderr)


class LastingStream:
    """A stream that a program can go on writing to when nobody reads it any more."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._warn = WarnOnce()

    def write(self, text: str) -> int:
        """Write a text, or nothing."""
        try:
            return self.stream.write(text)
        except OSError as error:
            self._abandon(error)
        return len(text)

    def flush(self) -> None:
        """Flush the stream, or do nothing."""
        try:
            self.stream.flush()
        except OSError as error:
            self._abandon(error)

    def _abandon(self, error: OSError) -> None:
        """Go on without the stream; on a full disk without this text alone."""
        if error.errno in NOBODY_READS:
            log.warning("nobody reads stdout any more: the run goes on without it")
            _redirect_to_nothing(self.stream)
        else:
            self._warn(f"stdout cannot be written, the run goes on ({error.strerror or error})")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _is_abandoned(stream: TextIO | None) -> bool:
    """Return whether a stream is a pipe that nobody reads any more, or a terminal that is closed."""
    try:
        if stream is None:
            return False
        stream.flush()
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except OSError as error:  # other than these, a full disk for example
        return error.errno in NOBODY_READS
    except (ValueError, AttributeError):  # closed, or no file; Windows has no poll
        return False


def _is_full(stream: TextIO | None) -> bool:
    """Return whether there is no room for another line on a stream."""
    if stream is None:
        return False
    try:
        print(file=stream, flush=True)  # an unbuffered stream keeps nothing that could be flushed
    except OSError as error:
        return error.errno == errno.ENOSPC
    except ValueError:  # it is closed
        pass
    return False


def _redirect_to_nothing(stream: TextIO) -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, stream.fileno())
    os.close(nothing)
