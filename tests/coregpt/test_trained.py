"""A trained model, loaded and asked to write."""

from pathlib import Path
from typing import Any

import pytest
import torch

import coregpt


def test_a_run_is_loaded_ready_to_write(run_dir: Path, tiny_argv: list[str]) -> None:
    coregpt.train([*tiny_argv, "--eval_interval=1", "--n_layer=1"])
    trained = coregpt.load("out", device="cpu")
    assert trained.kind == "language_model" and trained.options is not None and trained.options.n_layer == 1
    assert not trained.model.training

    text = trained.generate("ab", max_new_tokens=12)
    assert len(text) == 12 and trained.generate("ab", 12) == text != trained.generate("ab", 12, seed=2)
    with pytest.raises(coregpt.ConfigError, match="^generate: the prompt is empty"):
        trained.generate("")


def test_loading_draws_no_random_number_of_the_users(run_dir: Path, tiny_argv: list[str]) -> None:
    coregpt.train([*tiny_argv, "--eval_interval=1", "--n_layer=1"])
    before = torch.get_rng_state()
    coregpt.load(Path("out"), checkpoint=Path("out/ckpt.pt"), device="cpu")

    assert torch.equal(torch.get_rng_state(), before)


def test_a_tokenizer_can_be_given_where_the_checkpoint_names_none(run_dir: Path) -> None:
    class Plain:
        vocab_size = 4
        encode, decode = staticmethod(lambda text: [ord(c) - 97 for c in text]), staticmethod(lambda ids: str(ids))

    class Ids:
        vocab_size = 4

        def get_batch(self, split: str) -> Any:
            return torch.randint(4, (2, 5)), torch.randint(4, (2, 5))

    model = coregpt.GPT(coregpt.GPTConfig(n_layer=1, n_head=1, n_embd=8, block_size=5, vocab_size=4))
    options = {"device": "cpu", "compile": False, "max_iters": 1, "eval_interval": 1, "eval_iters": 1, "block_size": 5}
    coregpt.train(options, data=Ids(), model=model, tokenizer=Plain())

    assert coregpt.load("out", device="cpu", tokenizer=Plain()).generate("ab", 3).startswith("[")


def test_a_model_of_the_users_gets_the_weights_of_its_run(run_dir: Path, tiny_argv: list[str]) -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(9, 9)

        def forward(self, inputs: Any, targets: Any = None) -> Any:
            logits = self.table(inputs % 9)
            loss = (
                None
                if targets is None
                else torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten() % 9)
            )
            return logits, loss

    coregpt.train([*tiny_argv, "--eval_interval=1"], model=Net())
    saved = torch.load("out/ckpt.pt", weights_only=True)["model"]
    found = coregpt.load("out", device="cpu", model=Net())
    assert torch.equal(found.model.table.weight, saved["table.weight"]) and not found.model.training
    assert found.kind == "language_model" and found.tokenizer.decode([0])
    with pytest.raises(coregpt.CheckpointError, match="handed in from Python: make it there again, and give it to"):
        coregpt.load("out", device="cpu")


def test_a_folder_without_a_checkpoint_is_one_message(run_dir: Path) -> None:
    with pytest.raises(coregpt.CheckpointError, match="^no checkpoint at gone/ckpt.pt"):
        coregpt.load("gone", device="cpu")


def test_another_kind_of_model_does_not_write_text(run_dir: Path, tiny_argv: list[str]) -> None:
    coregpt.train([*tiny_argv, "--eval_interval=1", "--training_type=token_classification"])

    with pytest.raises(coregpt.ConfigError, match="^generate: the model is of the kind token_classifier"):
        coregpt.load("out", device="cpu").generate("ab")
