"""Fill data/sequence_scorer/queue with rows that an unmasking model has partly rewritten, and the share of that.

python data/sequence_scorer/prepare_streaming.py config/x.py --mlm_checkpoint_path=out/ckpt.pt [--once | --files=N]
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from config.stream_options import StreamOptions, read_options
from core.checkpoint import find_checkpoint, load_checkpoint
from core.errors import CheckpointError, ConfigError, exit_on_error
from core.model_initializer import ModelInitializer
from data.streaming.char_text import CharText
from data.streaming.masked import stages_by_split
from data.streaming.producer import Producer
from data.streaming.sequence_scorer import Fill, SequenceScorerProvider
from data.vocabulary import Vocabulary
from extras.filler import Filler
from loss_modifiers import sequence_scorer_target_transform
from model import GPT, GPTConfig

HERE = Path(__file__).resolve().parent
TOP_K = 50


def load_filler(options: StreamOptions, text: CharText) -> Fill:
    """Return what writes into masked positions: the model of `mlm_checkpoint_path`, sampled at temperature 1."""
    if not options.mlm_checkpoint_path:
        raise ConfigError("mlm_checkpoint_path is not set: give the checkpoint of a model trained to unmask")
    path = find_checkpoint(options.mlm_checkpoint_path)
    checkpoint = load_checkpoint(path)
    args = {"mode": "language_model", "attention_type": "causal", **checkpoint["model_args"]}
    if (args["mode"], args["attention_type"]) != ("language_model", "bidirectional"):
        raise CheckpointError(
            f"{path} is a {args['mode']} with {args['attention_type']} attention, wanted a model that fills gaps: one "
            "trained with training_type=unmasking"
        )
    vocab_size = args["vocab_size"]
    mask_id, pad_id = _ids_known(vocab_size, checkpoint.get("config") or {}, text)
    largest = pad_id if options.enable_line_aligned_sequences else mask_id
    if vocab_size <= largest:
        name = "[PAD] (not needed with enable_line_aligned_sequences=False)" if largest == pad_id else "[MASK]"
        raise CheckpointError(
            f"{path} knows {vocab_size} token ids, but this text's {name} is {largest}: "
            "it was trained on another vocabulary"
        )
    if args["block_size"] < options.block_size - 1:
        raise CheckpointError(
            f"{path} sees {args['block_size']} tokens, wanted block_size - 1 = {options.block_size - 1}"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    initializer = ModelInitializer(GPT, GPTConfig, device)
    model, _ = initializer.load_frozen(path, "language_model")
    renamed = {text.mask_id: mask_id, text.pad_id: pad_id}
    filler = Filler(model, text.base_size, sample=True, temperature=1.0, top_k=TOP_K, renamed=renamed)

    def fill(tokens: torch.Tensor, mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        seed = int(torch.randint(2**62, (1,), generator=generator))
        return filler.fill(tokens.to(device), mask.to(device), seed).cpu()

    return fill


def _ids_known(vocab_size: int, config: Mapping[str, Any], text: CharText) -> tuple[int, int]:
    """Return the ids of [MASK] and [PAD] for a model: as its checkpoint says, or else where its line has them."""
    mask, pad = text.base_size, text.base_size + 1
    ids = {"mask": config.get("mask_token_id"), "cls_token": config.get("cls_token_id")}
    if vocab_size == Vocabulary.beyond(text.base_size, **ids).size != text.vocab_size:  # of a run on train.bin
        _, mask, _, pad, _ = Vocabulary.beyond(text.base_size, **ids)
    told = {name: number for name, number in (config.get("meta") or {}).items() if number is not None}
    return told.get("mask_token_id", mask), told.get("pad_token_id", pad)


def provider(options: StreamOptions, text: CharText) -> SequenceScorerProvider:
    """Return what makes rows to score of a text."""
    stages = stages_by_split(
        **options.pick("use_all_stages_for_training", "unmasking_stages", "validation_stages"),
        block_size=options.block_size - 1,  # [CLS] takes one
        has_newline=text.newline_id is not None,
    )
    low, high = options.mask_probability_range
    return SequenceScorerProvider(
        text,
        options.batch_size,
        options.block_size,
        load_filler(options, text),
        stages,
        mask_probability_range=(low, high),
        line_aligned=options.enable_line_aligned_sequences,
        target=sequence_scorer_target_transform if options.score_transform else None,
    )


def main(argv: Sequence[str] | None = None, own: Path = HERE) -> None:
    """Prepare the text if that has not been done, and fill the queue."""
    options = read_options(sys.argv[1:] if argv is None else argv)
    folder = options.target_folder(own)
    text = CharText.prepared(options.source(folder), options.cls_token_id)
    Producer(folder, provider(options, text), **options.producer()).run(options.files, options.once)


if __name__ == "__main__":
    with exit_on_error():
        main()
