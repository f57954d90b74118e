"""
Run a training script unchanged and write its memory use to a JSON file: after all imports (level), and the peak.

    python benchmark/measure.py REPORT.json SCRIPT [ARGUMENT ...]
"""

import importlib
import json
import os
import resource
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Return the resident memory of this process (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def main(report: str, script: str, arguments: list[str]) -> None:
    """Import the script's modules, measure the level, run the script, measure the peak; both in bytes."""
    folder = os.path.dirname(os.path.abspath(script))
    sys.path[0] = folder
    modules = ["torch", "numpy", "model"]
    if Path(folder).is_relative_to(ROOT):
        sys.path.insert(1, str(ROOT))
        modules.append("train")
    for module in modules:
        importlib.import_module(module)
    level = resident_bytes()
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    Path(report).write_text(json.dumps({"level": level, "peak": peak}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
