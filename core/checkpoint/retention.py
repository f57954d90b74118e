"""Which checkpoints stay when a new one has been saved."""

from collections.abc import Iterable

from core.checkpoint.manifest import Manifest


def to_keep(good: Iterable[Manifest], *, last: int, best: int, linked: int | None = None) -> set[int]:
    """Return the numbers of the checkpoints to keep, of those whose manifests are given.

    last:   how many of the newest to keep
    best:   how many of those with the lowest validation loss to keep; of equal losses, the older
    linked: number of the checkpoint that `ckpt.pt` is

    The newest healthy checkpoint is always kept.
    """
    newest_first = sorted(good, key=lambda manifest: manifest["sequence"], reverse=True)
    measured = [manifest for manifest in newest_first if manifest["val_loss"] is not None]
    measured.sort(key=lambda manifest: (manifest["val_loss"], manifest["sequence"]))
    healthy = [manifest for manifest in newest_first if manifest["healthy"]]
    kept = {manifest["sequence"] for manifest in [*newest_first[:last], *measured[:best], *healthy[:1]]}
    return kept | ({linked} if linked is not None else set())
