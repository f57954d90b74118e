"""A trained model from its run folder, ready to write text."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

import core
from config.options import Options, SampleOptions
from wiring.architecture import load_architecture, with_model_fields
from wiring.sampling import load_trained_model
from wiring.saved_options import read_saved


class Trained(NamedTuple):
    """A model in evaluation mode, the tokenizer of its alphabet, and the options of its run (None for a GPT-2).

    kind: language_model, unmasking, token_classifier or sequence_scorer
    """

    model: Any
    tokenizer: Any
    options: Options | None
    kind: str

    def __repr__(self) -> str:
        return f"Trained({self.kind}, {sum(p.numel() for p in self.model.parameters()):,} parameters)"

    def generate(
        self,
        prompt: str = "\n",
        max_new_tokens: int = 200,
        temperature: float = 0.8,
        top_k: int | None = 200,
        seed: int | None = 1337,
    ) -> str:
        """Return a continuation of the prompt, without the prompt. Only for a language model.

        seed: of the draws; None draws on from torch's generator. Raises ConfigError for another kind of model
        """
        if self.kind != "language_model":
            raise core.ConfigError(f"generate: the model is of the kind {self.kind}, wanted a language_model")
        if self.tokenizer is None:
            raise core.ConfigError("generate: the model's tokens are not known: give load(..., tokenizer=...) one")
        ids = self.tokenizer.encode(prompt)
        if not ids:
            raise core.ConfigError("generate: the prompt is empty, wanted at least one token")
        device = next(self.model.parameters()).device
        if seed is not None:
            torch.manual_seed(seed)
        start = torch.tensor(ids, dtype=torch.long, device=device)[None]  # (1, T)
        with torch.no_grad():
            written = self.model.generate(start, max_new_tokens, temperature, top_k)
        return str(self.tokenizer.decode(written[0, len(ids) :].tolist()))


def load(
    out_dir: str | Path,
    checkpoint: str | Path = "linked",
    device: str = "cuda",
    tokenizer: Any = None,
    model: torch.nn.Module | None = None,
) -> Trained:
    """Return the model of a run folder or of a checkpoint file, of ours or of nanoGPT's.

    checkpoint: linked (nanoGPT's ckpt.pt), newest, best, or a file
    device:     without a CUDA device `cuda` takes mps or cpu
    tokenizer:  in place of the one that the checkpoint names
    model:      gets the weights, if the run was given one of its own; it goes to the device

    Raises CheckpointError or DataError if there is no usable checkpoint, or no tokenizer is known.
    """
    settings = SampleOptions().replace(out_dir=out_dir, checkpoint=checkpoint, device=device)
    runtime = core.Runtime(device=settings.device)
    before = runtime.rng_state()  # a model is made with random numbers before its weights are loaded
    architecture = load_architecture()
    initializer = core.ModelInitializer(architecture.model_class, architecture.config_class, runtime.device)
    found = load_trained_model(settings, initializer, tokenizer, model, needs_tokenizer=False)
    runtime.set_rng_state(before)
    has_options = bool(found.config.get("dataset"))
    saved = read_saved(with_model_fields(Options), found.config, Path(out_dir)) if has_options else None
    return Trained(found.model, found.tokenizer, saved, found.kind)
