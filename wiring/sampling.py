"""The parts of sample.py, made from the SampleOptions object: prompt, trained model, tokenizer, vocabulary, sampler."""

import io
import logging
import math
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import torch

import core
from config.options import SampleOptions
from configurator import configure
from core.checkpoint.format import is_folder
from core.checkpoint.resume import NEW_RUN_LOSS, is_number
from core.checkpoint.search import CheckpointFile
from core.files import require_file
from core.model_initializer import load_exactly
from data.meta import read_meta
from data.rows.opening import are_rows
from data.token_meaning import difference, sizes_differ
from data.tokenizers import Gpt2Tokenizer, Tokenizer, tokenizer_from_meta
from data.vocabulary import Vocabulary
from extras.hugging_face.c_line_checkpoint import is_model, newest
from extras.hugging_face.loading import PREFIX as HUGGING_FACE
from extras.hugging_face.loading import is_of_hugging_face, name_of, resume_model
from extras.hugging_face.loading import load_model as load_hugging_face
from extras.hugging_face.lora import is_adapter
from extras.hugging_face.model import HuggingFaceModel
from extras.hugging_face.tokenizer_import import tokenizer_meta
from extras.other_runs import load_judge
from extras.sampling.prompt_encoder import PromptEncoder
from extras.sampling.unmask_sampler import UnmaskSampler, masked_shares
from loss_modifiers import Judge
from wiring.architecture import knowing_model_fields, load_architecture
from wiring.data import GPT2_TOKENS, data_folder
from wiring.lora import adapter_of, base_loader, folder_adapter, resumed_adapter, tokenizer_of

log = logging.getLogger("coregpt")
SHAPE = {"dropout": 0.0, "block_size": 1}  # of a model whose weights say the rest
PRINTED_ALONE = {"--help", "-h", "--print_config"}  # what `configure` prints before it ends the program
KINDS = {"unmasking": "unmasking", "labels": "token_classifier"}  # section of options -> the kind of model it is for


class TrainedModel(NamedTuple):
    """A model in evaluation mode, its tokenizer, and facts about its training."""

    model: Any
    tokenizer: Any  # of `data.tokenizers`; None if none is known
    config: Mapping[str, Any]  # the options of its run; empty for a pretrained GPT-2
    kind: str  # "unmasking", or the model's mode, such as "language_model"
    prompt_name: str = "--start"  # in error messages

    def encoder(self) -> PromptEncoder:
        """Return an encoder of prompts for this model."""
        config = self.model.config
        return PromptEncoder(self.tokenizer, config.vocab_size, config.block_size, self.prompt_name)


def read_options(argv: Sequence[str]) -> SampleOptions:
    """Return the options of a command line. What `configure` prints goes to the stream of `redirect_header`."""
    held = io.StringIO()
    stream = sys.stdout
    try:
        with nullcontext() if PRINTED_ALONE & set(argv) else redirect_stdout(held):
            options = configure(knowing_model_fields(SampleOptions), argv)
        stream = sys.stderr if options.interactive else sys.stdout
    finally:
        print(held.getvalue(), end="", file=stream)
    return options


def redirect_header(options: SampleOptions) -> AbstractContextManager[Any]:
    """Print what comes before the answers on stderr with `interactive`, else as nanoGPT does on stdout."""
    return redirect_stdout(sys.stderr) if options.interactive else nullcontext()


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


def load_trained_model(
    options: SampleOptions,
    initializer: core.ModelInitializer,
    tokenizer: Tokenizer | None = None,
    given: torch.nn.Module | None = None,
    needs_tokenizer: bool = True,
) -> TrainedModel:
    """Return the model of `init_from`, compiled if the options ask for it.

    tokenizer: in place of the checkpoint's
    needs_tokenizer: a model of Hugging Face without one is an error; else its tokenizer is None
    given:     gets the weights of the checkpoint, in place of a model of the architecture

    Raises ConfigError if an option is given that is for another kind of model.
    """
    loaded, checkpoint = load_model(options, initializer, given)
    model = loaded.model
    config = checkpoint.get("config") or {}
    shape = getattr(model, "config", None)
    architecture = load_architecture()  # a fork's model.py has no modes
    has_modes = architecture.is_ours and isinstance(shape, architecture.config_class)
    mode = str(getattr(shape, "mode", "")) if has_modes else "language_model"
    kind = "unmasking" if config.get("training_type") == "unmasking" else mode
    _refuse_options_of_other_kinds(options, kind)
    is_foreign = isinstance(model, HuggingFaceModel)
    if tokenizer is None and (needs_tokenizer or checkpoint.get("tokenizer") or not is_foreign):
        tokenizer = find_tokenizer(checkpoint, getattr(shape, "vocab_size", None), is_foreign)
    model.eval()
    if options.compile and initializer.can_compile():
        model.compile()
    return TrainedModel(model, tokenizer, config, kind, "the line" if options.interactive else "--start")


def load_model(
    options: SampleOptions, initializer: core.ModelInitializer, given: torch.nn.Module | None = None
) -> tuple[core.LoadedModel, Mapping[str, Any]]:
    """Return the model, and its checkpoint; an empty one for a pretrained GPT-2. given: see `load_trained_model`"""
    if options.init_from == "resume" and (folder := _model_folder(options)):
        return _load_folder(str(folder), initializer, **options.pick("quantization", "device_map"))
    if options.init_from == "resume":
        found = _find_checkpoint(options)
        checkpoint = core.load_checkpoint(found.path)
        log.info(f"model: {found.path}{_progress(checkpoint, found.manifest)}")
        if given is not None:
            load_exactly(given, checkpoint["model"])
            return core.LoadedModel(given.to(initializer.device), {}), checkpoint
        if not checkpoint["model_args"]:
            raise core.CheckpointError(
                f"{found.path} is of a model that was handed in from Python: make it there again, and give it to "
                "coregpt.load(..., model=...)"
            )
        if adapter := adapter_of(checkpoint):
            place = options.pick("quantization", "device_map")
            source = resumed_adapter(adapter, checkpoint, base_loader(initializer, **place), options.quantization)
            return initializer.initialize(source, {**SHAPE, **checkpoint["model_args"]}), checkpoint
        if is_of_hugging_face(checkpoint):
            loaded = resume_model(checkpoint, initializer.device, "sdpa", None)
            loaded.model.crop_block_size(checkpoint["model_args"]["block_size"])
            return loaded, checkpoint
        return initializer.resume_model_from_checkpoint(checkpoint, checkpoint["model_args"]), checkpoint
    if options.init_from.startswith(HUGGING_FACE):
        return _load_folder(name_of(options.init_from), initializer, **options.pick("quantization", "device_map"))
    return initializer.load_pretrained(options.init_from, {"dropout": 0.0}), {}


def _model_folder(options: SampleOptions) -> Path | None:
    """Return the folder of transformers or peft that the options name: out_dir, or a checkpoint of the C line in it.

    None if they name a run or checkpoint of ours.
    """
    folder, named = Path(options.out_dir), Path(options.out_dir, options.checkpoint)
    return next((path for path in (named, folder, newest(folder)) if path and _is_model_folder(path)), None)


def _is_model_folder(folder: Path) -> bool:
    """Return whether a folder holds a model of transformers or an adapter, and no run or checkpoint of ours."""
    return is_model(folder) and not is_folder(folder) and not any(folder.glob("ckpt*"))


def _load_folder(
    name: str, initializer: core.ModelInitializer, quantization: str, device_map: str | None
) -> tuple[core.LoadedModel, Mapping[str, Any]]:
    """Return a model of transformers, by name or from a folder, or one with an adapter; and its tokenizer."""
    if is_adapter(Path(name)):
        load_base = base_loader(initializer, quantization=quantization, device_map=device_map)
        loaded = folder_adapter(Path(name), load_base, quantization)(dict(SHAPE))
        return loaded, {"tokenizer": tokenizer_of(HUGGING_FACE + name)}
    loaded = load_hugging_face(name, initializer.device, quantization=quantization, device_map=device_map)
    return loaded, {"tokenizer": tokenizer_meta(name)}


def _find_checkpoint(options: SampleOptions) -> CheckpointFile:
    """Return the checkpoint that the options name: out_dir may be the file itself, and checkpoint a path of its own."""
    path, checkpoints = Path(options.out_dir), core.CheckpointManager(options.out_dir)
    if path.is_file() or is_folder(path):
        return CheckpointFile(path, None)
    if options.checkpoint == "best":
        return checkpoints.load_best()
    if options.checkpoint in ("linked", "newest"):
        return checkpoints.load(prefer_linked=options.checkpoint == "linked")
    named = next((file for file in (path / options.checkpoint, Path(options.checkpoint)) if file.exists()), None)
    if named is None:
        raise core.CheckpointError(
            f"checkpoint={options.checkpoint}: there is no such file in {path}, wanted linked, newest, best, or a file"
        )
    return CheckpointFile(core.find_checkpoint(named), None)


def _progress(checkpoint: Mapping[str, Any], manifest: Mapping[str, Any] | None) -> str:
    """Return how far the model was trained, as far as the checkpoint says it: `, iteration 50 of 71, val 1.47`."""
    iter_num: Any = checkpoint.get("iter_num")
    last: Any = (checkpoint.get("config") or {}).get("max_iters")
    loss: Any = checkpoint.get("best_val_loss") if manifest is None else manifest["val_loss"]
    words = f", iteration {int(iter_num)}" if is_number(iter_num) and math.isfinite(iter_num) else ""
    if words and is_number(last):
        words += f" of {float(last) + 1:g}"
    return words + (f", val {float(loss):.2f}" if is_number(loss) and float(loss) < NEW_RUN_LOSS else "")


def _refuse_options_of_other_kinds(options: SampleOptions, kind: str) -> None:
    for section, owner in KINDS.items():
        given = ", ".join(options.changed(*options.sections()[section]))
        if given and owner != kind:
            raise core.ConfigError(
                f"{given}: for checkpoints of the kind {owner}, and this one is of the kind {kind}: remove it"
            )


def find_tokenizer(checkpoint: Mapping[str, Any], vocab_size: int | None, is_foreign: bool = False) -> Tokenizer:
    """Return the tokenizer of a checkpoint's model; of nanoGPT's checkpoints, that of its data set, or GPT-2's.

    is_foreign: the model is one of Hugging Face, whose tokens are not GPT-2's by default
    vocab_size: the model's, None if it does not say; DataError if nothing says what its tokens are
    """
    dataset = (checkpoint.get("config") or {}).get("dataset")
    dataset = None if dataset and are_rows(dataset) else dataset  # rows have no meta.pkl
    path = data_folder(dataset or "") / "meta.pkl"
    has_meta = dataset is not None and os.path.lexists(path)  # a link to nowhere is an error, not GPT-2
    learnt = checkpoint.get("tokenizer")
    if learnt is None and not has_meta and is_foreign:
        raise core.DataError(
            "the model's folder had no tokenizer, and its checkpoint does not say what its tokens are: give "
            "coregpt.load(..., tokenizer=...) one, in Python"
        )
    if learnt is None and not has_meta:
        if vocab_size is None or vocab_size < GPT2_TOKENS:
            where = f"{path} is not there (the current folder is {Path.cwd()})" if dataset else "it names no data set"
            raise core.DataError(
                f"the model has {vocab_size or 'its own'} tokens, not GPT-2's, and its checkpoint does not say which: "
                f"{where}"
            )
        print("No meta.pkl found, assuming GPT-2 encodings...")
        return Gpt2Tokenizer()
    if learnt is None:
        print(f"Loading meta from {path}...")
        meta = read_meta(path)
        if vocab_size and sizes_differ(vocab_size, meta["vocab_size"]):
            log.warning(f"{path}: {meta['vocab_size']} tokens, but the model has {vocab_size}: the text may be wrong")
        return tokenizer_from_meta(meta)
    if not has_meta:
        if dataset:
            log.info(f"{path} is not there: the tokens are those in the checkpoint")
    elif found := difference(learnt, _meta_or_empty(path)):
        log.warning(f"{path} has other tokens than the model ({found}): those in the checkpoint are used")
    else:
        print(f"Loading meta from {path}...")
    return tokenizer_from_meta(learnt)


def _meta_or_empty(path: Path) -> Mapping[str, Any]:
    try:
        return read_meta(path)
    except core.DataError as error:
        log.warning(error)
        return {}


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
    with redirect_header(options):
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


def texts_to_score(prompt: str, start: str, name: str = "--start") -> list[tuple[str, str]]:
    """Return (name in messages, text) of the prompt; of a file, for each line that is not empty."""
    if not start.startswith("FILE:"):
        return [(name, prompt)]
    lines = [(f"--start={start} line {n}", line) for n, line in enumerate(prompt.splitlines(), 1) if line]
    return lines or [("--start", "")]
