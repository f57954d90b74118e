"""
Recipe pairs for config/finetune_t5.yaml: `python examples/datasets/recipes.py` writes 200 made-up ones, recipes.jsonl.

As a data set file it gives the same rows: `--dataset_file=examples/datasets/recipes.py`. Yours may read any file.
"""

import json
import random
from pathlib import Path
from typing import Any

MAINS = ["lentils", "rice", "potatoes", "pasta", "chickpeas", "eggs"]
SIDES = ["tomatoes", "spinach", "onions", "carrots", "mushrooms", "basil"]
STEPS = ["Chop the {side}.", "Cook the {main} for {minutes} minutes.", "Add the {side} and stir.", "Season and serve."]


def recipes(count: int = 200, seed: int = 42) -> list[dict[str, Any]]:
    """Return rows with a prompt (`input`), a recipe (`output`) and a quality from 0.3 to 1 (`quality_score`)."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        main, side, minutes = draw.choice(MAINS), draw.choice(SIDES), draw.randrange(10, 40, 5)
        steps = [step.format(main=main, side=side, minutes=minutes) for step in STEPS]
        lines = [f"**{main.title()} with {side}**", "", "**Ingredients:**", f"- 200 g {main}", f"- 100 g {side}", ""]
        lines += ["**Instructions:**", *(f"{number}. {step}" for number, step in enumerate(steps, 1))]
        prompt = f"Create a recipe with {main} and {side}."
        rows.append({"input": prompt, "output": "\n".join(lines), "quality_score": round(draw.uniform(0.3, 1), 2)})
    return rows


def get_custom_dataset(
    dataset_config: Any, processor: Any, split: str, split_ratio: float = 0.8
) -> list[dict[str, Any]]:
    """Return the rows of a split: `train`, or any other name for the rest."""
    rows = recipes()
    size = int(len(rows) * split_ratio)
    return rows[:size] if split == "train" else rows[size:]


if __name__ == "__main__":
    text = "".join(json.dumps(row) + "\n" for row in recipes())
    Path("recipes.jsonl").write_text(text, encoding="utf-8")
    print(f"wrote recipes.jsonl, {len(recipes())} rows")
