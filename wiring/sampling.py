"""Turns the options of sample.py into a trained model and the way in which it answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from core import (
    CheckpointManager,
    ConfigError,
    LoadedModel,
    ModelInitializer,
    Runtime,
    find_checkpoint,
    load_checkpoint,
)
from data.meta import read_meta
from data.tokenizers import Gpt2Tokenizer, Tokenizer, tokenizer_from_meta
from data.vocabulary import Vocabulary
from extras.frozen import load_judge
from extras.sampling.continue_text import continue_text
from extras.sampling.fill_masks import fill_masks
from extras.sampling.label_tokens import label_tokens
from extras.sampling.prompt_encoder import PromptEncoder
from extras.sampling.score_texts import score_texts
from extras.sampling.step_display import StepDisplay
from extras.sampling.unmask_sampler import UnmaskSampler, masked_shares
from loss_modifiers import Judge
from model import GPT, GPTConfig

if TYPE_CHECKING:
    from config.options import SampleOptions

Answer = Callable[[], None]  # prints
OWN_OPTIONS = {  # that mean something to one kind of model only
    "unmasking": (
        *("steps", "schedule", "masking_ratios", "order", "remask", "top_p", "mask_char"),
        *("judge", "judge_candidates", "show_steps"),
    ),
    "token_classifier": ("show_probabilities", "original"),
}


class Trained(NamedTuple):
    """A model in evaluation mode, and what is known of its training.

    config: the options of its run
    kind:   language_model, unmasking, token_classifier or sequence_scorer
    """

    model: Any
    tokenizer: Tokenizer
    config: dict[str, Any]
    kind: str
    initializer: ModelInitializer

    @property
    def encoder(self) -> PromptEncoder:
        """What makes token ids of texts for this model."""
        return PromptEncoder(self.tokenizer, self.model.config.vocab_size, self.model.config.block_size)


def load_trained(options: SampleOptions, run: Runtime) -> Trained:
    """Return the model that the options name. Raises ConfigError for options of another kind of model."""
    initializer = ModelInitializer(GPT, GPTConfig, run.device)
    model, config = _load_model(options, initializer)
    mode = getattr(model.config, "mode", "language_model")  # a fork's model.py may not have one
    kind = "unmasking" if config.get("training_type") == "unmasking" else mode
    for owner, names in OWN_OPTIONS.items():
        foreign = ", ".join(options.changed(*names))
        if foreign and owner != kind:
            raise ConfigError(
                f"{foreign}: for checkpoints of the kind {owner}, and this one is of the kind {kind}: remove it"
            )
    tokenizer = find_tokenizer(config.get("dataset"))
    model.eval()
    if options.compile and initializer.can_compile():
        model.compile()
    return Trained(model, tokenizer, config, kind, initializer)


def _load_model(options: SampleOptions, initializer: ModelInitializer) -> tuple[Any, dict[str, Any]]:
    """Return the model, and the options of its run."""
    if options.init_from != "resume":
        return initializer.load_pretrained(options.init_from, {"dropout": 0.0}).model, {}
    found = CheckpointManager(options.out_dir).load(prefer_linked=True)
    checkpoint = load_checkpoint(found.path)
    loaded: LoadedModel = initializer.resume_model_from_checkpoint(checkpoint, checkpoint["model_args"])
    return loaded.model, checkpoint.get("config") or {}


def find_tokenizer(dataset: str | None) -> Tokenizer:
    """Return the tokenizer that a data set was prepared with; GPT-2's if nothing else is known."""
    path = os.path.join("data", dataset or "", "meta.pkl")
    if dataset is None or not os.path.exists(path):
        print("No meta.pkl found, assuming GPT-2 encodings...")
        return Gpt2Tokenizer()
    print(f"Loading meta from {path}...")
    return tokenizer_from_meta(read_meta(path))


def find_vocabulary(trained: Trained) -> Vocabulary:
    """Return a model's text ids and special ids, as its checkpoint notes them, or else its data set."""
    path = os.path.join("data", trained.config.get("dataset") or "", "meta.pkl")
    meta = trained.config.get("meta") or (read_meta(path) if os.path.exists(path) else {})
    if "mask_token_id" in meta:
        return Vocabulary.of(meta, trained.model.config.vocab_size)
    mask, cls_token = trained.config.get("mask_token_id"), trained.config.get("cls_token_id")
    return Vocabulary.beyond(trained.tokenizer.vocab_size, mask=mask, cls_token=cls_token)


def read_prompt(start: str, option: str = "start") -> str:
    """Return the prompt, from a file if `start` says `FILE:path`."""
    if not start.startswith("FILE:"):
        return start
    try:
        return Path(start.removeprefix("FILE:")).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--{option}={start}: the prompt cannot be read ({error})") from None


def make_answer(options: SampleOptions, run: Runtime, trained: Trained, prompt: str) -> Answer:
    """Return what prints the model's answer to a prompt."""
    if trained.kind != "language_model" and not options.changed("start"):
        prompt = ""  # nanoGPT's newline is for models that need something to continue
    makers = {"language_model": _continuing, "unmasking": _filling, "token_classifier": _labelling}
    return makers.get(trained.kind, _scoring)(options, run, trained, prompt)


def _continuing(options: SampleOptions, run: Runtime, trained: Trained, prompt: str) -> Answer:
    ids = torch.tensor(trained.tokenizer.encode(prompt), dtype=torch.long, device=run.device)
    settings = options.pick("num_samples", "max_new_tokens", "temperature", "top_k")
    return partial(continue_text, trained.model, ids, trained.tokenizer.decode, **settings)


def _filling(options: SampleOptions, run: Runtime, trained: Trained, prompt: str) -> Answer:
    decode, vocabulary = trained.tokenizer.decode, find_vocabulary(trained)
    ids = trained.encoder.with_masks(prompt, vocabulary.mask, options.mask_char, options.max_new_tokens)
    room, wanted = ids.count(vocabulary.mask), options.changed("max_new_tokens").get("max_new_tokens", 0)
    if room < wanted and not options.mask_char:
        size = trained.model.config.block_size
        print(f"block_size={size} has room for {room} new tokens, not {wanted}", file=sys.stderr)
    judge = None
    if options.judge:
        judge = load_judge(trained.initializer, find_checkpoint(options.judge), vocabulary, len(ids))
    sampler = UnmaskSampler(
        trained.model,
        vocabulary.text,
        vocabulary.mask,
        options.masking_ratios or masked_shares(options.schedule, options.steps),
        generator=torch.Generator(run.device).manual_seed(options.seed),
        **options.pick("temperature", "top_k", "top_p", "order", "remask"),
    )
    display = StepDisplay(sys.stdout, decode, vocabulary.mask, blocks=options.show_steps)
    start = torch.tensor(ids, device=run.device)
    return partial(
        fill_masks,
        *(sampler, start, decode, display),
        num_samples=options.num_samples,
        judge=judge,
        candidates=options.judge_candidates,
    )


def _labelling(options: SampleOptions, run: Runtime, trained: Trained, prompt: str) -> Answer:
    ids = torch.tensor(trained.encoder.encode(prompt), device=run.device)
    original = None
    if options.original is not None:
        original = trained.encoder.encode(read_prompt(options.original, "original"), "--original")
    return partial(
        label_tokens,
        *(trained.model, ids, trained.tokenizer.decode),
        in_colours=sys.stdout.isatty(),
        show_probabilities=options.show_probabilities,
        original=original,
    )


def _scoring(options: SampleOptions, run: Runtime, trained: Trained, prompt: str) -> Answer:
    """Return what scores the prompt, or every line of a file that is not empty."""
    texts = [("--start", prompt)]
    if options.start.startswith("FILE:"):
        lines = [(f"--start={options.start} line {n}", line) for n, line in enumerate(prompt.splitlines(), 1) if line]
        texts = lines or [("--start", "")]
    encoded = [trained.encoder.encode(text, what, beside=1) for what, text in texts]  # the CLS token needs room
    config = trained.model.config
    judge = Judge(trained.model, config.cls_token_id, config.block_size)
    return partial(score_texts, judge, [text for _, text in texts], encoded, run.device)
