"""
Write a trained model as a folder that the transformers package loads, with the same logits: ours as a GPT-2.

    python -m tools.export out-quickstart                 # writes out-quickstart/hf
    python -m tools.export out --out gpt2-mine --checkpoint best

The folder has the weights (safetensors), config.json, generation_config.json, and the tokenizer of the data set: of
characters, of bytes, or a byte-pair encoding of tiktoken. In Python:

    AutoModelForCausalLM.from_pretrained("out-quickstart/hf")
    pipeline("text-generation", "out-quickstart/hf")("def ", max_new_tokens=50)
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from config.options import SampleOptions
from core import ModelInitializer
from core.commands import argument_parser, command
from core.errors import ConfigError, exit_on_error
from extras.hugging_face.gpt2_export import to_gpt2, write_folder
from extras.hugging_face.lora import has_adapter
from extras.hugging_face.model import HuggingFaceModel
from extras.hugging_face.processor import preprocessor_of
from tools.output import replace_folder, require_room
from wiring.architecture import load_architecture
from wiring.sampling import load_trained_model

NAME = "hf"  # of the folder inside out_dir


def export(out_dir: Path, folder: Path | None = None, checkpoint: str = "linked") -> Path:
    """Write the model of a run folder or a checkpoint file, and return the folder. A note says if it has no tokenizer.

    folder:     where to, by default `hf` in the run folder; files of an earlier export are replaced
    checkpoint: linked (nanoGPT's ckpt.pt), newest, best, or a file

    Raises CheckpointError without a usable checkpoint; ConfigError for one of our models that is no GPT-2, or a folder
    that holds something else.
    """
    target = folder or (out_dir.parent if out_dir.is_file() else out_dir) / NAME
    require_room(target)
    architecture = load_architecture()
    initializer = ModelInitializer(architecture.model_class, architecture.config_class, torch.device("cpu"))
    settings = SampleOptions().replace(out_dir=str(out_dir), checkpoint=checkpoint)
    trained = load_trained_model(settings, initializer, needs_tokenizer=False)
    model, ours = trained.model, trained.tokenizer
    if has_adapter(model):
        merge = command("tools/merge_lora.py")
        raise ConfigError(f"{out_dir} holds an adapter: `{merge} {out_dir}` writes the complete model")
    model = model.transformer if isinstance(model, HuggingFaceModel) else to_gpt2(model)
    tokenizer = None if ours is None else preprocessor_of(ours, trained.model.config.block_size)
    replace_folder(target, out_dir, lambda path: write_folder(model, tokenizer, path))
    if ours is not None and tokenizer is None:
        kind = type(ours).__name__
        print(f"{target} has no tokenizer: transformers has none that is like a {kind}", file=sys.stderr)
    return target


def main(argv: Sequence[str]) -> None:
    """Export the model that the command line names."""
    parser = argument_parser("tools/export.py", __doc__)
    parser.add_argument("out_dir", type=Path, help="run folder, or checkpoint file")
    parser.add_argument("--out", type=Path, help="folder to write; default: hf in the run folder")
    parser.add_argument("--checkpoint", default="linked", help="linked (ckpt.pt), newest, best, or a file")
    given = parser.parse_args(argv)
    print(f"wrote {export(given.out_dir, given.out, given.checkpoint)}")


if __name__ == "__main__":
    with exit_on_error():
        main(sys.argv[1:])
