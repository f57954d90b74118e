"""
Pictures with questions and answers for config/finetune_llama_vision.yaml: a coloured square on a plain ground.

A row has one picture, and turns of a user and the assistant. The rows of a hub's data set serve as well:
`datasets.load_dataset(name, split="train")`, in the same form.
"""

import random
from typing import Any

COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 220), "yellow": (230, 210, 60)}
SIDE = 64  # pixels of a picture


def rows(count: int = 400, seed: int = 42) -> list[dict[str, Any]]:
    """Return rows with `images`, a list of one picture, and `texts`, a list of turns with `user` and `assistant`."""
    from PIL import Image, ImageDraw

    draw, found = random.Random(seed), []
    for _ in range(count):
        (name, colour), (ground, other) = draw.sample(sorted(COLOURS.items()), 2)
        x, y, size = draw.randrange(SIDE // 2), draw.randrange(SIDE // 2), draw.randrange(8, SIDE // 2)
        picture = Image.new("RGB", (SIDE, SIDE), other)
        ImageDraw.Draw(picture).rectangle((x, y, x + size, y + size), fill=colour)
        place = f"{'left' if x + size / 2 < SIDE / 2 else 'right'}, {'top' if y + size / 2 < SIDE / 2 else 'bottom'}"
        turns = [
            {"user": "What colour is the square?", "assistant": f"The square is {name} on {ground}."},
            {"user": "Where is it?", "assistant": f"At the {place}: its corner is at ({x}, {y})."},
        ]
        found.append({"images": [picture], "texts": turns})
    return found


def get_custom_dataset(
    dataset_config: Any, processor: Any, split: str, split_ratio: float = 0.8
) -> list[dict[str, Any]]:
    """Return the rows of a split: `train`, or any other name for the rest."""
    made = rows()
    size = int(len(made) * split_ratio)
    return made[:size] if split == "train" else made[size:]
