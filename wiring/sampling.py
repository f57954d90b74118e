"""The parts of sample.py, made from the SampleOptions object: prompt, trained model, tokenizer, vocabulary, sampler."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

import core
from config.options import SampleOptions
from core.files import require_file
from data.meta import read_meta
from data.tokenizers import Gpt2Tokenizer, Tokenizer, tokenizer_from_meta
from data.vocabulary import Vocabulary
from extras.other_runs import load_judge
from extras.sampling.prompt_encoder import PromptEncoder
from extras.sampling.unmask_sampler import UnmaskSampler, masked_shares
from loss_modifiers import Judge
from wiring.data import data_folder

KINDS = {"unmasking": "unmasking", "labels": "token_classifier"}  # section of options -> the kind of model it is for


class TrainedModel(NamedTuple):
    """A model in evaluation mode, its tokenizer, and facts about its training."""

    model: Any
    tokenizer: Tokenizer
    config: Mapping[str, Any]  # the options of its run; empty for a pretrained GPT-2
    kind: str  # "unmasking", or the model's mode, such as "language_model"

    def encoder(self) -> PromptEncoder:
        """Return an encoder of prompts for this model."""
        return PromptEncoder(self.tokenizer, self.model.config.vocab_size, self.model.config.block_size)


def read_text(value: str, option: str) -> str:
    """Return an option's text; `FILE:path` reads it from a file."""
    if not value.startswith("FILE:"):
        return value
    try:
        path = Path(value.removeprefix("FILE:")).expanduser()
        require_file(path)
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: ~somebody that there is not
        cause = getattr(error, "strerror", None) or error
        raise core.ConfigError(f"--{option}={value}: the prompt cannot be read ({cause})") from None


def load_trained_model(options: SampleOptions, initializer: core.ModelInitializer) -> TrainedModel:
    """Return the model of `init_from`, compiled if the options ask for it.

    Raises ConfigError if an option is given that is for another kind of model.
    """
    model, config = _load(options, initializer)
    mode = getattr(model.config, "mode", "language_model")  # a fork's model.py may have no modes
    kind = "unmasking" if config.get("training_type") == "unmasking" else mode
    _refuse_options_of_other_kinds(options, kind)
    tokenizer = find_tokenizer(config.get("dataset"))
    model.eval()
    if options.compile and initializer.can_compile():
        model.compile()
    return TrainedModel(model, tokenizer, config, kind)


def _load(options: SampleOptions, initializer: core.ModelInitializer) -> tuple[Any, Mapping[str, Any]]:
    """Return the model, and the options of its run."""
    if options.init_from == "resume":
        checkpoint = core.load_checkpoint(_checkpoint_path(options.out_dir))
        loaded = initializer.resume_model_from_checkpoint(checkpoint, checkpoint["model_args"])
        return loaded.model, checkpoint.get("config") or {}
    return initializer.load_pretrained(options.init_from, {"dropout": 0.0}).model, {}


def _checkpoint_path(out_dir: str) -> Path:
    """Return the checkpoint of a run folder; the path itself if it is a file."""
    path = Path(out_dir)
    return path if path.is_file() else core.CheckpointManager(path).load(prefer_linked=True).path


def _refuse_options_of_other_kinds(options: SampleOptions, kind: str) -> None:
    for section, owner in KINDS.items():
        given = ", ".join(options.changed(*options.sections()[section]))
        if given and owner != kind:
            raise core.ConfigError(
                f"{given}: for checkpoints of the kind {owner}, and this one is of the kind {kind}: remove it"
            )


def find_tokenizer(dataset: str | None) -> Tokenizer:
    """Return the tokenizer of a data set; GPT-2's if the data set has no meta.pkl."""
    path = data_folder(dataset or "") / "meta.pkl"
    if dataset is None or not path.exists():
        print("No meta.pkl found, assuming GPT-2 encodings...")
        return Gpt2Tokenizer()
    print(f"Loading meta from {path}...")
    return tokenizer_from_meta(read_meta(path))


def find_vocabulary(trained: TrainedModel) -> Vocabulary:
    """Return the model's vocabulary: text tokens and special tokens, from its checkpoint or its data set's meta.pkl."""
    path = data_folder(trained.config.get("dataset") or "") / "meta.pkl"
    meta = trained.config.get("meta") or (read_meta(path) if path.exists() else {})
    if "mask_token_id" in meta:
        return Vocabulary.of(meta, trained.model.config.vocab_size)
    mask, cls_token = trained.config.get("mask_token_id"), trained.config.get("cls_token_id")
    return Vocabulary.beyond(trained.tokenizer.vocab_size, mask=mask, cls_token=cls_token)


def prompt_ids(prompt: str, trained: TrainedModel, device: torch.device) -> torch.Tensor:
    """Return the token ids (T,) of the prompt."""
    return torch.tensor(trained.encoder().encode(prompt), device=device)


def masked_prompt(
    prompt: str, trained: TrainedModel, mask_token_id: int, options: SampleOptions, device: torch.device
) -> torch.Tensor:
    """Return the token ids (T,) of the prompt with its masks; warns on stderr if `max_new_tokens` does not fit."""
    ids = trained.encoder().with_masks(prompt, mask_token_id, options.mask_char, options.max_new_tokens)
    room, wanted = ids.count(mask_token_id), options.changed("max_new_tokens").get("max_new_tokens", 0)
    if room < wanted and not options.mask_char:
        block_size = trained.model.config.block_size
        print(f"block_size={block_size} has room for {room} new tokens, not {wanted}", file=sys.stderr)
    return torch.tensor(ids, device=device)


def make_judge(
    options: SampleOptions, initializer: core.ModelInitializer, vocabulary: Vocabulary, length: int
) -> Judge | None:
    """Return the judge of texts of `length` tokens, None without the option."""
    if not options.judge:
        return None
    return load_judge(initializer, core.find_checkpoint(options.judge), vocabulary, length)


def make_sampler(model: Any, vocabulary: Vocabulary, options: SampleOptions, device: torch.device) -> UnmaskSampler:
    """Return the sampler that fills the masks of a text."""
    return UnmaskSampler(
        model,
        vocabulary.text,
        vocabulary.mask,
        options.masking_ratios or masked_shares(options.schedule, options.steps),
        generator=torch.Generator(device).manual_seed(options.seed),
        **options.pick("temperature", "top_k", "top_p", "order", "remask"),
    )


def original_ids(trained: TrainedModel, options: SampleOptions) -> list[int] | None:
    """Return the token ids of the text to compare labels with, None without the option."""
    if options.original is None:
        return None
    return trained.encoder().encode(read_text(options.original, "original"), "--original")


def texts_to_score(prompt: str, start: str) -> list[tuple[str, str]]:
    """Return (name in messages, text) of the prompt; of a file, for each line that is not empty."""
    if not start.startswith("FILE:"):
        return [("--start", prompt)]
    lines = [(f"--start={start} line {n}", line) for n, line in enumerate(prompt.splitlines(), 1) if line]
    return lines or [("--start", "")]
