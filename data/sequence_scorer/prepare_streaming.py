"""Fill data/sequence_scorer/queue with rows partly rewritten by an unmasking model, until Ctrl-C.

python data/sequence_scorer/prepare_streaming.py config/x.py --mlm_checkpoint_path=out/ckpt.pt [--once | --files=N]
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from config.stream_options import StreamOptions, read_options
from core.checkpoint.find import find_checkpoint
from core.errors import CheckpointError, ConfigError, exit_on_error
from core.model_initializer import ModelInitializer
from data.prepare_scripts import output_folder
from data.streaming.char_text import CharText
from data.streaming.masked import stages_by_split
from data.streaming.producer import Producer
from data.streaming.sequence_scorer import Fill, SequenceScorerProvider
from data.vocabulary import Vocabulary
from extras.filler import Filler
from extras.other_runs import load_unmasking_model
from loss_modifiers import sequence_scorer_target_transform
from wiring.architecture import load_architecture

TOP_K = 50


def make_fill(options: StreamOptions, text: CharText) -> Fill:
    """Return a function that fills masked positions with tokens sampled from the model of `mlm_checkpoint_path`.

    Raises ConfigError when the option is not set, CheckpointError when the model does not fit the text.
    """
    if not options.mlm_checkpoint_path:
        raise ConfigError("mlm_checkpoint_path is not set: give the checkpoint of a model trained to unmask")
    path = find_checkpoint(options.mlm_checkpoint_path)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    architecture = load_architecture()
    initializer = ModelInitializer(architecture.model_class, architecture.config_class, device)
    model, notes = load_unmasking_model(initializer, path)
    config = model.config
    mask_id, pad_id = _model_ids(config.vocab_size, notes, text)
    largest = pad_id if options.enable_line_aligned_sequences else mask_id
    if config.vocab_size <= largest:
        name = "[PAD] (not needed with enable_line_aligned_sequences=False)" if largest == pad_id else "[MASK]"
        raise CheckpointError(
            f"{path} has {config.vocab_size} token ids, but this text's {name} is {largest}: "
            "the model was trained on another vocabulary"
        )
    if config.block_size < options.block_size - 1:
        raise CheckpointError(
            f"{path} has block_size={config.block_size}, wanted at least {options.block_size - 1}: "
            "lower block_size or give another checkpoint"
        )
    renamed = {text.mask_id: mask_id, text.pad_id: pad_id}
    filler = Filler(model, text.base_size, sample=True, temperature=1.0, top_k=TOP_K, renamed=renamed)

    def fill(tokens: torch.Tensor, mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        seed = int(torch.randint(2**62, (1,), generator=generator))
        return filler.fill(tokens.to(device), mask.to(device), seed).cpu()

    return fill


def _model_ids(vocab_size: int, notes: Mapping[str, Any], text: CharText) -> tuple[int, int]:
    """Return the model's ids of [MASK] and [PAD], from its checkpoint's notes or the size of its vocabulary."""
    mask, pad = text.base_size, text.base_size + 1
    ids = {"mask": notes.get("mask_token_id"), "cls_token": notes.get("cls_token_id")}
    trained = Vocabulary.beyond(text.base_size, **ids)
    if vocab_size == trained.size != text.vocab_size:  # the model was trained on train.bin, not on a queue
        mask, pad = trained.mask, trained.pad
    noted = {name: number for name, number in (notes.get("meta") or {}).items() if number is not None}
    return noted.get("mask_token_id", mask), noted.get("pad_token_id", pad)


def provider(options: StreamOptions, text: CharText) -> SequenceScorerProvider:
    """Return the provider of rows to score."""
    stages = stages_by_split(
        **options.pick("use_all_stages_for_training", "unmasking_stages", "validation_stages"),
        block_size=options.block_size - 1,  # one position is [CLS]
        has_newline=text.newline_id is not None,
    )
    low, high = options.mask_probability_range
    return SequenceScorerProvider(
        text,
        options.batch_size,
        options.block_size,
        make_fill(options, text),
        stages,
        mask_probability_range=(low, high),
        line_aligned=options.enable_line_aligned_sequences,
        target=sequence_scorer_target_transform if options.score_transform else None,
    )


def main(argv: Sequence[str] | None = None, own: Path | None = None) -> None:
    """Prepare the text if needed, and fill the queue."""
    options = read_options(sys.argv[1:] if argv is None else argv)
    folder = options.target_folder(own or output_folder(__file__))
    text = CharText.prepared(options.source(folder), options.cls_token_id)
    Producer(folder, provider(options, text), **options.producer()).run(options.files, options.once)


if __name__ == "__main__":
    with exit_on_error():
        main()
