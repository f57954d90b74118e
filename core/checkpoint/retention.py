"""Which checkpoints stay when a new one has been saved."""

from collections.abc import Iterable
from typing import Any

from core.checkpoint.manifest import Manifest


def to_keep(good: Iterable[Manifest], *, last: int, best: int, linked: int | None = None) -> set[int]:
    """Return the numbers of the checkpoints to keep, of those whose manifests are given.

    last:   how many of the newest to keep
    best:   how many to keep of those that come first `by_loss`
    linked: number of the checkpoint that `ckpt.pt` is

    The newest healthy checkpoint is always kept.
    """
    newest_first = sorted(good, key=lambda manifest: manifest["sequence"], reverse=True)
    measured = by_loss(newest_first)
    healthy = [manifest for manifest in newest_first if manifest["healthy"]]
    kept = {manifest["sequence"] for manifest in [*newest_first[:last], *measured[:best], *healthy[:1]]}
    return kept | ({linked} if linked is not None else set())


def by_loss(manifests: Iterable[Manifest]) -> list[Manifest]:
    """Return those with a validation loss, the lowest first, of equal losses the older.

    Losses on other data do not compare: only checkpoints with the data of the newest one count. If the newest one names
    another metric that decides which is best, its values are compared in place of losses.
    """
    numbered = sorted(manifests, key=lambda manifest: manifest["sequence"])
    data = numbered[-1].get("data_fingerprint") if numbered else None
    measured = [m for m in numbered if m["val_loss"] is not None and m.get("data_fingerprint") == data]
    wanted = next((m["best_metric"] for m in reversed(numbered) if m.get("best_metric")), None)
    if wanted is None:
        return sorted(measured, key=lambda manifest: (manifest["val_loss"], manifest["sequence"]))
    sign = 1 if wanted["mode"] == "min" else -1
    alike = [(m, m["best_metric"]["value"]) for m in measured if _is_of(m, wanted)]
    return [m for m, value in sorted(alike, key=lambda pair: (sign * pair[1], pair[0]["sequence"]))]


def _is_of(manifest: Manifest, wanted: dict[str, Any]) -> bool:
    """Return whether a manifest has a value of the metric that another one names."""
    found = manifest.get("best_metric") or {}
    return found.get("name") == wanted["name"] and found.get("value") is not None
