"""
Run a training script as it is and report its memory: the level once everything is imported, and the peak, in bytes.

    python benchmark/measure.py REPORT.json SCRIPT [ARGUMENT ...]
"""

import importlib
import json
import os
import resource
import runpy
import sys
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Return this process's memory in use (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def main(report: str, script: str, arguments: list[str]) -> None:
    """Import what the script will, note the level, run it, note the peak."""
    folder = os.path.dirname(os.path.abspath(script))
    sys.path[0] = folder
    for module in ("torch", "numpy", "model"):
        importlib.import_module(module)
    if Path(folder, "core").is_dir():
        importlib.import_module("train")
    level = resident_bytes()
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    Path(report).write_text(json.dumps({"level": level, "peak": peak}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
