"""data/sequence_scorer/prepare_streaming.py: which models may fill gaps, and the ids they are shown."""

from pathlib import Path
from typing import Any

import pytest
import torch

from config.stream_options import StreamOptions
from core.checkpoint.manager import CheckpointManager
from core.errors import CheckpointError
from data.sequence_scorer.prepare_streaming import make_fill
from data.streaming.char_text import CharText
from data.vocabulary import Vocabulary
from model import GPT, GPTConfig

Args = dict[str, Any]


def saved(text: CharText, config: Args | None = None, **changes: Any) -> Args:
    """Return the checkpoint of a tiny unmasking model."""
    args = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 24, "vocab_size": text.vocab_size, "bias": False,
            "dropout": 0.0, "attention_type": "bidirectional", **changes}  # fmt: skip
    return {"model": GPT(GPTConfig(**args)).state_dict(), "model_args": args, "config": config or {}}


def options(path: Path) -> StreamOptions:
    return StreamOptions(mlm_checkpoint_path=str(path), block_size=24)


def test_the_folder_of_a_run_is_accepted(text: CharText, tmp_path: Path) -> None:
    checkpoint = saved(text)
    CheckpointManager(tmp_path / "out").save(
        lambda path: torch.save(checkpoint, path), {"iter_num": 1, "val_loss": None, "healthy": True}
    )
    mask = torch.ones(2, 23, dtype=torch.bool)
    filled = make_fill(options(tmp_path / "out"), text)(torch.full((2, 23), text.mask_id), mask, torch.Generator())

    assert int(filled.max()) < text.base_size


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"mode": "sequence_scorer", "cls_token_id": 3}, "is a sequence_scorer, wanted a language_model"),
        ({"mode": "token_classifier", "num_token_classes": 2}, "is a token_classifier, wanted a language_model"),
        ({"attention_type": "causal"}, "is no unmasking model: give the checkpoint of a training_type=unmasking run"),
    ],
)
def test_what_does_not_unmask_is_refused(text: CharText, tmp_path: Path, changes: Args, what: str) -> None:
    torch.save(saved(text, **changes), tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=what):
        make_fill(options(tmp_path / "ckpt.pt"), text)


@pytest.mark.parametrize("mask_token_id", [None, 3])
def test_a_model_trained_on_the_text_itself_sees_its_own_padding(
    text: CharText, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mask_token_id: int | None
) -> None:
    mask_id = None if mask_token_id is None else text.base_size + mask_token_id
    own = Vocabulary.beyond(text.base_size, mask=mask_id)
    torch.save(saved(text, {"mask_token_id": mask_id}, vocab_size=own.size), tmp_path / "ckpt.pt")
    shown: list[torch.Tensor] = []
    forward = GPT.forward

    def watched(self: GPT, ids: torch.Tensor, *others: Any) -> Any:
        shown.append(ids)
        return forward(self, ids, *others)

    monkeypatch.setattr(GPT, "forward", watched)
    tokens = torch.tensor([[0, 1, text.mask_id, 2, text.pad_id, text.pad_id]])
    mask = tokens == text.mask_id
    filled = make_fill(options(tmp_path / "ckpt.pt"), text)(tokens, mask, torch.Generator())

    assert shown[0].tolist() == [[0, 1, own.mask, 2, own.pad, own.pad]]
    assert torch.equal(filled[~mask], tokens[~mask])
    assert int(filled[mask]) < text.base_size


@pytest.mark.parametrize("line_aligned", [False, True])
def test_a_model_has_to_know_the_ids_it_is_shown(text: CharText, tmp_path: Path, line_aligned: bool) -> None:
    needed = text.base_size + 1 + line_aligned
    for known in (needed - 1, needed):
        torch.save(saved(text, vocab_size=known), tmp_path / "ckpt.pt")
        asked = options(tmp_path / "ckpt.pt").model_copy(update={"enable_line_aligned_sequences": line_aligned})
        if known == needed:
            make_fill(asked, text)
        else:
            with pytest.raises(CheckpointError, match=rf"has {known} token ids, but this text's .* is {known}"):
                make_fill(asked, text)
