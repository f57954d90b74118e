"""The command where it is not on the path."""

import subprocess
import sys


def test_python_runs_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "coregpt"], capture_output=True, text=True)

    assert done.stdout.startswith("usage: python -m coregpt COMMAND ...") and done.returncode == 0
