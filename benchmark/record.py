"""
Run a training script as it is, and keep every checkpoint it writes under its iteration's number.

    python benchmark/record.py FOLDER SCRIPT [ARGUMENT ...]
"""

import os
import runpy
import sys
from typing import Any

import torch


def main(folder: str, script: str, arguments: list[str]) -> None:
    """Run `script` as a program, `torch.save` extended by a second copy in `folder`."""
    save = torch.save

    def save_twice(content: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        save(content, path, *args, **kwargs)
        if isinstance(content, dict) and "iter_num" in content:  # torch pickles other things with it too
            save(content, os.path.join(folder, f"{content['iter_num']}.pt"))

    torch.save = save_twice
    sys.argv = [script, *arguments]
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
