"""
Merge an adapter (LoRA) into the model that it was trained on, in full precision: the result needs no peft.

    python -m tools.merge_lora out-recipes                      # writes out-recipes/merged
    python -m tools.merge_lora out-recipes --checkpoint best --out models/recipes
    python -m tools.merge_lora path/to/adapter                  # a folder with adapter_config.json

A model of transformers becomes a folder that transformers loads; a model of model.py becomes a run folder with ckpt.pt,
for sample.py and init_from_checkpoint.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from config.options import SampleOptions
from core import ModelInitializer
from core.checkpoint.search import LINKED
from core.commands import argument_parser
from core.errors import ConfigError, exit_on_error
from data.tokenizers import tokenizer_from_meta
from extras.hugging_face.gpt2_export import write_folder
from extras.hugging_face.lora import merge
from extras.hugging_face.model import HuggingFaceModel
from extras.hugging_face.processor import preprocessor_of
from tools.output import replace_folder, require_room
from wiring.architecture import load_architecture
from wiring.lora import KEY
from wiring.sampling import load_model

NAME = "merged"  # of the folder inside the source


def merge_lora(source: Path, folder: Path | None = None, checkpoint: str = "linked") -> Path:
    """Write the model of an adapter, merged, and return the folder.

    source:     run folder, checkpoint, or folder of an adapter
    folder:     where to, by default `merged` in the source; files of an earlier merge are replaced
    checkpoint: which one of a run: linked or newest, best, or a name

    Raises CheckpointError or ConfigError if there is no adapter, or its base is not what it was trained on.
    """
    target = folder or source / NAME
    require_room(target)
    architecture = load_architecture()
    initializer = ModelInitializer(architecture.model_class, architecture.config_class, torch.device("cpu"))
    settings = SampleOptions().replace(out_dir=str(source), checkpoint=checkpoint)
    loaded, found = load_model(settings, initializer)
    if KEY not in loaded.model_args:
        raise ConfigError(f"{source} holds a complete model, and no adapter: there is nothing to merge")
    model = merge(loaded.model)
    meta = found.get("tokenizer")
    if isinstance(model, HuggingFaceModel):
        tokenizer = None if meta is None else tokenizer_from_meta(meta)
        theirs = None if tokenizer is None else preprocessor_of(tokenizer, model.config.block_size)
        return replace_folder(target, source, lambda path: write_folder(model.transformer, theirs, path))
    model_args = {name: value for name, value in loaded.model_args.items() if name != KEY}
    kept = {name: found[name] for name in ("config", "tokenizer", "iter_num", "best_val_loss") if name in found}
    content = {"model": model.state_dict(), "model_args": model_args, **kept}
    return replace_folder(target, source, lambda path: _write_checkpoint(content, path))


def _write_checkpoint(content: dict[str, Any], folder: Path) -> None:
    torch.save(content, folder / LINKED)


def main(argv: Sequence[str]) -> None:
    """Merge the adapter that the command line names."""
    parser = argument_parser("tools/merge_lora.py", __doc__)
    parser.add_argument("source", type=Path, help="run folder, checkpoint, or folder of an adapter")
    parser.add_argument("--out", type=Path, help="folder to write; default: merged in the source")
    parser.add_argument("--checkpoint", default="linked", help="of a run: linked or newest, best, or a name")
    given = parser.parse_args(argv)
    print(f"wrote {merge_lora(given.source, given.out, given.checkpoint)}")


if __name__ == "__main__":
    with exit_on_error():
        main(sys.argv[1:])
