"""Checkpoints that are folders, which other programs load: a model of transformers, or a peft adapter alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.checkpoint.format import STATE, load_checkpoint
from core.checkpoint.run_folder import OPTIONS
from core.checkpoint.weights import Tensors, tied_names
from core.checkpoint.writer import TorchFile
from extras.hugging_face.lora import Adapter, adapter_names, prefix_of, write_adapter
from extras.hugging_face.model import HuggingFaceModel

WHOLE = "1TB"  # no model is divided into several files


class CheckpointFolder(TorchFile):
    """Writes and reads checkpoints as folders: `checkpoint-500` of iteration 500. See `core.checkpoint.writer`.

    A folder has the weights (safetensors) and their config as transformers or peft write them, the tokenizer,
    options.yaml, and the rest of the checkpoint in training.pt.

    model:     whose weights the checkpoints hold; of a model with an adapter they hold the adapter's alone
    adapter:   None: all weights are saved
    tokenizer: of transformers; None for none
    options:   the content of options.yaml
    """

    suffix = ""

    def __init__(self, model: Any, adapter: Adapter | None, tokenizer: Any, options: str) -> None:
        self.model, self.adapter, self.tokenizer, self.options = model, adapter, tokenizer, options

    def gather(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """Return what `write` needs: without the weights that never change."""
        if self.adapter is None:
            return checkpoint
        kept = set(adapter_names(self.model, self.adapter).values())
        weights = {name: tensor for name, tensor in checkpoint["model"].items() if name in kept}
        return {**checkpoint, "model": weights}

    def write(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Write a checkpoint to the folder `path`, which is made."""
        path.mkdir()
        weights = checkpoint["model"]
        names = self._write_model(weights, path) if self.adapter is None else self._write_adapter(weights, path)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(path)
        (path / OPTIONS).write_text(self.options, encoding="utf-8")
        super().write({**checkpoint, "model": {}, "weights": names}, path / STATE)

    def read(self, path: Path) -> dict[str, Any]:
        """Return the checkpoint at `path`, with the weights of the model that never change."""
        checkpoint = load_checkpoint(path, check=False)
        if self.adapter is not None:
            checkpoint["model"] = {**self.model.state_dict(), **checkpoint["model"]}
        return checkpoint

    def _write_model(self, weights: Tensors, path: Path) -> dict[str, str]:
        """Write the weights of a model of transformers, and its configs. Return the weights' names in the file."""
        assert isinstance(self.model, HuggingFaceModel)
        transformer, prefix = self.model.transformer, prefix_of(self.model)
        groups = {name: name for name in weights}  # of tensors that are one, the one to write
        for group in tied_names(self.model.state_dict()):
            first = _written_of(group, prefix, transformer)
            groups.update(dict.fromkeys(group, first))
        state = {name.removeprefix(prefix): weights[name].contiguous() for name in dict.fromkeys(groups.values())}
        transformer.save_pretrained(path, state_dict=state, save_original_format=False, max_shard_size=WHOLE)
        for file in path.glob("*.safetensors"):
            file.chmod((path / "config.json").stat().st_mode)  # safetensors lets nobody else read it
        return {name: first.removeprefix(prefix) for name, first in groups.items()}

    def _write_adapter(self, weights: Tensors, path: Path) -> dict[str, str]:
        assert self.adapter is not None
        names = adapter_names(self.model, self.adapter)
        write_adapter(path, self.adapter, {key: weights[name] for key, name in names.items()})
        return {name: key for key, name in names.items()}


def _written_of(group: list[str], prefix: str, transformer: Any) -> str:
    """Return the name, of a group of tied ones, under which transformers expects the tensor in a file."""
    tied: Callable[[str], bool] = (getattr(transformer, "all_tied_weights_keys", None) or {}).__contains__
    return next((name for name in group if not tied(name.removeprefix(prefix))), group[0])
