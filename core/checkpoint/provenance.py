"""Where and with what a checkpoint was made: part of every manifest, and compared on a resume."""

import platform
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

CHECKOUT = Path(__file__).resolve().parents[2]
DISTRIBUTION = "coregpt"
PATIENCE_S = 2
DECIDE_THE_BITS = ("torch", "device", "threads", "platform")


def describe(device: torch.device, world_size: int) -> dict[str, Any]:
    """Return versions, device, threads, processes and platform as plain values."""
    return {
        "git": revision(CHECKOUT),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "device": _describe(device),
        "threads": torch.get_num_threads(),
        "world_size": world_size,
        "platform": f"{platform.system()} {platform.machine()}",
    }


def differences(saved: dict[str, Any], now: dict[str, Any]) -> str:
    """Return as a text what has changed of the things that decide the last bits of a result; "" if nothing has."""
    changed = [key for key in DECIDE_THE_BITS if key in saved and key in now and saved[key] != now[key]]
    return ", ".join(f"{key} {saved[key]} -> {now[key]}" for key in changed)


def version(checkout: Path = CHECKOUT) -> str | None:
    """Return the version of this program: of its checkout, else of the installed distribution; None if not known."""
    try:
        return str(tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])
    except (OSError, ValueError, KeyError):
        pass
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return None


def revision(checkout: Path, patience_s: float = PATIENCE_S) -> str | None:
    """Return the short git revision of a checkout, with "-dirty" if tracked files were changed.

    None if `checkout` is not the top folder of a repository, or git is absent or slow.
    """
    # the folders are explicit, so that neither a repository around this one nor a git hook's variables have an effect
    place = [f"--git-dir={checkout / '.git'}", f"--work-tree={checkout}"]
    command = ["git", "--no-optional-locks", *place, "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=checkout, capture_output=True, text=True, timeout=patience_s, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _describe(device: torch.device) -> str:
    """Return a device's type and model; for a CPU the instruction set that decides torch's kernels."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        return f"cpu {torch.backends.cpu.get_cpu_capability()}"
    return device.type
