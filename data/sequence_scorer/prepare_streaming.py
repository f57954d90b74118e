"""Fill data/sequence_scorer/queue with rows that an unmasking model has partly rewritten, and the share of that.

python data/sequence_scorer/prepare_streaming.py config/x.py --mlm_checkpoint_path=out/ckpt.pt [--once | --files=N]
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from config.stream_options import StreamOptions, read_options
from core.checkpoint import load_checkpoint
from core.errors import CheckpointError, ConfigError, exit_on_error
from data.streaming.char_text import CharText
from data.streaming.masked import stages_by_split
from data.streaming.producer import Producer
from data.streaming.sequence_scorer import Fill, SequenceScorerProvider, concave
from model import GPT, GPTConfig

HERE = Path(__file__).resolve().parent
TOP_K = 50


def load_filler(options: StreamOptions, text: CharText) -> Fill:
    """Return what writes into masked positions: the model of `mlm_checkpoint_path`, sampled at temperature 1."""
    path = options.mlm_checkpoint_path
    if not path:
        raise ConfigError("mlm_checkpoint_path is not set: give the checkpoint of a model trained to unmask")
    checkpoint = load_checkpoint(path)
    known = {field.name for field in dataclasses.fields(GPTConfig)}
    config = GPTConfig(**{name: value for name, value in checkpoint["model_args"].items() if name in known})
    largest = text.pad_id if options.enable_line_aligned_sequences else text.mask_id
    if config.vocab_size <= largest:
        name = "[PAD] (not needed with enable_line_aligned_sequences=False)" if largest == text.pad_id else "[MASK]"
        raise CheckpointError(
            f"{path} knows {config.vocab_size} token ids, but this text's {name} is {largest}: "
            "it was trained on another vocabulary"
        )
    if config.block_size < options.block_size - 1:
        raise CheckpointError(
            f"{path} sees {config.block_size} tokens, wanted block_size - 1 = {options.block_size - 1}"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = GPT(config)
    try:
        model.load_state_dict(checkpoint["model"])
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit the model: {error}") from None
    model.to(device).eval()

    @torch.no_grad()
    def fill(tokens: torch.Tensor, mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        logits, _ = model(tokens.to(device), tokens.to(device))  # with targets, so that there are logits everywhere
        chosen = logits[mask.to(device)][:, : text.base_size].float().cpu()  # (N, V): no special tokens
        if len(chosen):
            best, ids = chosen.topk(min(TOP_K, chosen.shape[1]))
            drawn = torch.multinomial(best.softmax(dim=1), 1, generator=generator)
            tokens = tokens.masked_scatter(mask, ids.gather(1, drawn))
        return tokens

    return fill


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
        target=concave if options.scorer_target == "concave" else None,
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
