"""
Write text with a trained model: a checkpoint of ours or of nanoGPT's, or OpenAI's GPT-2.

    python sample.py --out_dir=out-quickstart
    python sample.py --out_dir=out-quickstart --start="def " --num_samples=3 --max_new_tokens=200
    python sample.py --init_from=gpt2-xl --start=FILE:prompt.txt

What a checkpoint has learnt decides what it does: an unmasking model fills masks, a token classifier labels the
prompt's tokens, and a sequence scorer scores the prompt, or each line of a file.

    python sample.py --out_dir=out-unmasking --start="To be _____ or not" --mask_char=_
    python sample.py --out_dir=out-unmasking --judge=out-scorer --judge_candidates=4
    python sample.py --out_dir=out-classifier --start=FILE:page.txt --show_probabilities=True
    python sample.py --out_dir=out-scorer --start=FILE:lines.txt
"""

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

import core
from config.options import SampleOptions
from configurator import configure
from data.meta import read_meta
from data.tokenizers import Gpt2Tokenizer, Tokenizer, tokenizer_from_meta
from data.vocabulary import Vocabulary
from extras.frozen import load_judge
from extras.sampling.prompt_encoder import PromptEncoder
from extras.sampling.step_display import StepDisplay
from extras.sampling.token_labels import TokenLabels
from extras.sampling.unmask_sampler import UnmaskSampler, masked_shares
from loss_modifiers import Judge
from model import GPT, GPTConfig

SEPARATOR = "---------------"
OWN_OPTIONS = {  # that mean something to one kind of model alone
    "unmasking": ("steps", "schedule", "masking_ratios", "order", "remask", "top_p", "mask_char", "judge",
                  "judge_candidates", "show_steps"),
    "token_classifier": ("show_probabilities", "original"),
}  # fmt: skip


class Trained(NamedTuple):
    """A model that is ready to be asked, with what is known of its training."""

    model: Any
    tokenizer: Tokenizer
    config: dict[str, Any]  # the options of its run
    kind: str  # unmasking, or its mode


def find_tokenizer(dataset: str | None) -> Tokenizer:
    """Return the tokenizer that a data set was prepared with; GPT-2's where nothing else is known."""
    path = os.path.join("data", dataset or "", "meta.pkl")
    if dataset is None or not os.path.exists(path):
        print("No meta.pkl found, assuming GPT-2 encodings...")
        return Gpt2Tokenizer()
    print(f"Loading meta from {path}...")
    return tokenizer_from_meta(read_meta(path))


def find_vocabulary(trained: Trained) -> Vocabulary:
    """Return which of a model's tokens are text, and which is the mask: as its checkpoint says, or its data set."""
    path = os.path.join("data", trained.config.get("dataset") or "", "meta.pkl")
    meta = trained.config.get("meta") or (read_meta(path) if os.path.exists(path) else {})
    if "mask_token_id" in meta:
        return Vocabulary.of(meta, trained.model.config.vocab_size)
    mask, cls_token = trained.config.get("mask_token_id"), trained.config.get("cls_token_id")
    return Vocabulary.beyond(trained.tokenizer.vocab_size, mask=mask, cls_token=cls_token)


def read_prompt(start: str, option: str = "start") -> str:
    """Return the prompt, from a file where it says `FILE:path`."""
    if not start.startswith("FILE:"):
        return start
    try:
        return Path(start.removeprefix("FILE:")).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise core.ConfigError(f"--{option}={start}: the prompt cannot be read ({error})") from None


def load(options: SampleOptions, initializer: core.ModelInitializer) -> Trained:
    """Return the model that the options name."""
    config: dict[str, Any] = {}
    if options.init_from == "resume":
        checkpoint = core.load_checkpoint(core.CheckpointManager(options.out_dir).load(prefer_linked=True).path)
        model = initializer.resume_model_from_checkpoint(checkpoint, dict(checkpoint["model_args"]))
        config = checkpoint.get("config") or {}
    else:
        model = initializer.load_pretrained(options.init_from, {"dropout": 0.0})
    mode = getattr(model.config, "mode", "language_model")  # a fork's model.py may know of none
    kind = "unmasking" if config.get("training_type") == "unmasking" else mode
    for owner, names in OWN_OPTIONS.items():
        foreign = ", ".join(options.changed(*names))
        if foreign and owner != kind:
            raise core.ConfigError(
                f"{foreign}: for checkpoints of the kind {owner}, and this one is of the kind {kind}: remove it"
            )
    tokenizer = find_tokenizer(config.get("dataset"))
    model.eval()
    if options.compile and initializer.can_compile():
        model.compile()
    return Trained(model, tokenizer, config, kind)


def main(argv: Sequence[str]) -> None:
    """Print samples, labels or scores, as the command line asks for them."""
    options = configure(SampleOptions, argv)
    if options.init_from == "scratch":
        raise core.ConfigError("init_from=scratch has nothing to say yet: wanted resume, a GPT-2's name, or its folder")
    prompt = read_prompt(options.start)
    with core.Runtime(**options.pick("device", "dtype", "seed", "cpu_autocast")) as run:
        initializer = core.ModelInitializer(GPT, GPTConfig, run.device)
        trained = load(options, initializer)
        if trained.kind != "language_model" and not options.changed("start"):
            prompt = ""  # nanoGPT's newline is there because its model needs something to continue
        with run.autocast:
            if trained.kind == "language_model":
                continue_text(trained, prompt, options, run.device)
            elif trained.kind == "unmasking":
                fill_masks(trained, prompt, options, initializer)
            elif trained.kind == "token_classifier":
                label_tokens(trained, prompt, options, run.device)
            else:
                score_texts(trained, prompt, options.start, run.device)


def continue_text(trained: Trained, prompt: str, options: SampleOptions, device: torch.device) -> None:
    """Print continuations of the prompt, as nanoGPT does."""
    model, tokenizer = trained.model, trained.tokenizer
    ids = torch.tensor(tokenizer.encode(prompt), dtype=torch.long, device=device)[None]  # (1, T)
    if not ids.numel():  # the model needs one position to continue
        raise core.ConfigError("--start is empty: give the model at least one character to continue")
    for _ in range(options.num_samples):
        written = model.generate(ids, options.max_new_tokens, options.temperature, options.top_k)
        print(tokenizer.decode(written[0].tolist()), SEPARATOR, sep="\n", flush=True)


def fill_masks(trained: Trained, prompt: str, options: SampleOptions, initializer: core.ModelInitializer) -> None:
    """Print texts of an unmasking model; with a judge each is the one of several that looks least machine-made."""
    decode, vocabulary = trained.tokenizer.decode, find_vocabulary(trained)
    ids = encoder(trained).with_masks(prompt, vocabulary.mask, options.mask_char, options.max_new_tokens)
    room, asked = ids.count(vocabulary.mask), options.changed("max_new_tokens").get("max_new_tokens", 0)
    if room < asked and not options.mask_char:
        print(
            f"block_size={trained.model.config.block_size} has room for {room} new tokens, not {asked}", file=sys.stderr
        )
    judge = None
    if options.judge:
        judge = load_judge(initializer, core.find_checkpoint(options.judge), vocabulary, len(ids))
    sampler = UnmaskSampler(
        trained.model, vocabulary.text, vocabulary.mask,
        options.masking_ratios or masked_shares(options.schedule, options.steps),
        generator=torch.Generator(initializer.device).manual_seed(options.seed),
        **options.pick("temperature", "top_k", "top_p", "order", "remask"),
    )  # fmt: skip
    display = StepDisplay(sys.stdout, decode, vocabulary.mask, blocks=options.show_steps)
    start = torch.tensor(ids, device=initializer.device)
    for _ in range(options.num_samples):
        states: Iterable[torch.Tensor] = sampler.states(start, options.judge_candidates if judge else 1)
        best, verdict = 0, []
        if judge:
            *_, last = states = list(states)
            scores = judge(last).tolist()
            best = scores.index(min(scores))
            verdict = [f"judge: {scores[best]:.4f}, of " + ", ".join(f"{score:.4f}" for score in sorted(scores))]
        written = ids
        display.show(written)
        for state in states:
            written = state[best].tolist()
            display.show(written)
        display.clear()
        print(decode(written), *verdict, SEPARATOR, sep="\n", flush=True)


def label_tokens(trained: Trained, prompt: str, options: SampleOptions, device: torch.device) -> None:
    """Print the prompt with its tokens' classes: in colours on a terminal, else as a table."""
    ids = encoder(trained).encode(prompt)
    labels = TokenLabels.by(trained.model, torch.tensor(ids, device=device), trained.tokenizer.decode)
    lines = [labels.painted(), labels.legend()] if sys.stdout.isatty() else []
    if options.show_probabilities or not lines:
        lines.append(labels.table(options.show_probabilities))
    if options.original is not None:
        original = read_prompt(options.original, "original")
        lines.append(labels.accuracy(encoder(trained).encode(original, "--original")))
    print("\n".join(lines))


def score_texts(trained: Trained, prompt: str, start: str, device: torch.device) -> None:
    """Print the score of the prompt, or of every line of a file that is not empty."""
    texts = [("--start", prompt)]
    if start.startswith("FILE:"):
        lines = [(f"--start={start} line {n}", line) for n, line in enumerate(prompt.splitlines(), 1) if line]
        texts = lines or [("--start", "")]
    encoded = [encoder(trained).encode(text, what, beside=1) for what, text in texts]  # beside the CLS token
    judge = Judge(trained.model, trained.model.config.cls_token_id, trained.model.config.block_size)
    for (_, text), ids in zip(texts, encoded, strict=True):
        print(f"{judge(torch.tensor([ids], device=device)).item():.4f}  {text}", flush=True)


def encoder(trained: Trained) -> PromptEncoder:
    """Return what makes token ids of texts for this model."""
    return PromptEncoder(trained.tokenizer, trained.model.config.vocab_size, trained.model.config.block_size)


if __name__ == "__main__":
    with core.exit_on_error():
        main(sys.argv[1:])
