"""The source of a run's model, and frozen parameters."""

from typing import Any

import pytest
import torch
from torch import nn

import core
import train
from config.options import Options
from core.machine import memory
from model import GPT, GPTConfig
from tests.comparing import assert_same
from tests.wiring.tiny_task import task
from wiring.model import adapt, make_initializer, model_maker, model_source
from wiring.start import RunStart

TINY_SCORER: dict[str, Any] = dict(
    n_layer=1, n_head=1, n_embd=8, block_size=8, vocab_size=20, mode="sequence_scorer", cls_token_id=19,
    attention_type="bidirectional",
)  # fmt: skip


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        ({"freeze_transformer": True}, ["transfer: 4 of 13 tensors train, the others stay frozen"]),
        (
            {"freeze_transformer": True, "unfreeze_at_iteration": 5},
            ["transfer: 4 of 13 tensors train, the others from iteration 5 on"],
        ),
        ({"trainable": "ln_f"}, ["transfer: 5 of 13 tensors train, the others stay frozen"]),
        ({}, []),
    ],
)
def test_the_number_of_trainable_tensors_is_logged(
    options: dict[str, Any], messages: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    model = GPT(GPTConfig(**TINY_SCORER, bias=False))
    with caplog.at_level("INFO", logger="coregpt"):
        adapt(model, Options(training_type="sequence_scoring", **options))

    assert caplog.messages == messages


def test_a_model_made_again_has_the_same_weights(run: core.Runtime, initializer: core.ModelInitializer) -> None:
    """A rollback to where a fresh run started makes its model again."""
    tiny, start = task(run), RunStart("scratch", None, core.RunFolder("out"))
    make = model_maker(tiny.options, run, tiny.run_data, start, initializer, None)

    models = [make()[0].model.state_dict() for _ in range(2)]

    assert_same(*models)


TINY = dict(n_layer=1, n_head=1, n_embd=8, block_size=8, bias=False, dropout=0.0, vocab_size=20)


class Pretrained(GPT):
    """A stand-in for GPT-2: from_pretrained returns a tiny model for every name."""

    @classmethod
    def from_pretrained(cls, model_type: str, override_args: dict[str, Any] | None = None) -> GPT:
        return GPT(GPTConfig(**TINY))  # type: ignore[arg-type]


def test_init_from_decides_where_the_weights_come_from(capsys: pytest.CaptureFixture[str]) -> None:
    initializer = core.ModelInitializer(Pretrained, GPTConfig, torch.device("cpu"))
    weights = GPT(GPTConfig(**TINY)).state_dict()  # type: ignore[arg-type]
    checkpoint = {"model": weights, "model_args": TINY}

    resumed = model_source("resume", initializer, checkpoint)(TINY)
    fresh = model_source("scratch", initializer, None)(TINY)
    pretrained = model_source("gpt2", initializer, None)(TINY)

    assert torch.equal(resumed.model.lm_head.weight, weights["lm_head.weight"])
    assert isinstance(fresh.model, Pretrained) and not isinstance(pretrained.model, Pretrained)
    assert fresh.model_args == resumed.model_args == pretrained.model_args == TINY
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Init")]
    assert lines == ["Initializing a new model from scratch", "Initializing from OpenAI GPT-2 weights: gpt2"]


@pytest.mark.parametrize("name", ["scartch", "gpt3", "no/such/folder", ""])
def test_an_unknown_init_from_is_refused_before_any_output(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(core.ConfigError, match=rf"^init_from={name!r} is not known: wanted scratch, resume, gpt2, "):
        model_source(name, core.ModelInitializer(GPT, GPTConfig, torch.device("cpu")), None)
    assert capsys.readouterr().out == ""


def test_another_source_of_weights_is_a_function() -> None:
    """Such as one that reads a Hugging Face folder: it returns a model and the arguments that fit its weights."""
    initializer = core.ModelInitializer(GPT, GPTConfig, torch.device("cpu"))

    def folder(model_args: dict[str, Any]) -> core.LoadedModel:
        return initializer.create_model_from_scratch({**model_args, "n_layer": 2, "block_size": 12})

    model, model_args = initializer.initialize(folder, {**TINY, "block_size": 6})

    assert (model.config.n_layer, model.config.block_size) == (2, 6)
    assert model_args == {**TINY, "n_layer": 2, "block_size": 6}


class Bigram(nn.Module):
    """Another architecture with the model contract: a table of logits for the next token."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.table = nn.Embedding(config.vocab_size, config.vocab_size)

    def forward(self, idx: torch.Tensor, targets: torch.Tensor | None = None) -> Any:
        logits = self.table(idx)
        if targets is None:
            return logits[:, [-1]], None
        return logits, nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)

    def configure_optimizers(self, weight_decay: float, learning_rate: float, betas: Any, device_type: str) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=learning_rate, betas=betas, weight_decay=weight_decay)

    def estimate_mfu(self, fwdbwd_per_iter: float, dt: float) -> float:
        return 0.0


def test_another_architecture_trains_and_resumes(
    run_dir: Any, tiny_argv: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.GPT", Bigram)
    argv = [*tiny_argv, "--learning_rate=0.1"]
    first = train.main([*argv, "--max_iters=3"])
    last = train.main([*argv, "--init_from=resume", "--max_iters=9"])

    assert last < first
    assert core.load_checkpoint("out/ckpt.pt")["model"].keys() == {"table.weight"}


OTHER = {"vocab_size": 17, "itos": dict(enumerate("\nABCDEFGHIJKLMNOP")), "stoi": {}}
LEARNT_OTHERS = r"meta\.pkl: the checkpoint has learnt other tokens \(id 1 is 'A' there and 'a' here, 15"


@pytest.mark.parametrize(
    ("checkpoint", "model_size", "message"),
    [
        ({"tokenizer": OTHER}, 17, LEARNT_OTHERS),
        (
            {},
            10,
            r"data/tiny/meta\.pkl: 17 tokens, but the checkpoint's model has 10: prepare the data set as it was, or",
        ),
        ({"config": {"dataset": "tiny"}}, 10, r"17 tokens, but the checkpoint's model has 10: .*from_checkpoint=out "),
        ({"config": {"dataset": "else"}}, 112, r"17 tokens, but the checkpoint's model has 112"),
    ],
)
def test_a_model_that_has_learnt_other_tokens_is_not_resumed(
    run: core.Runtime, checkpoint: dict[str, Any], model_size: int, message: str
) -> None:
    with pytest.raises(core.DataError, match=message):
        task(run).check({"vocab_size": model_size}, checkpoint)


@pytest.mark.parametrize("checkpoint", [{}, {"tokenizer": None}, {"tokenizer": {"vocab_size": 17}}])
def test_a_model_with_the_same_tokens_is_resumed_without_a_word(
    run: core.Runtime, checkpoint: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    task(run).check({"vocab_size": 17}, checkpoint)
    task(run).check({"vocab_size": 32}, checkpoint)  # rounded up for speed
    assert caplog.messages == []


def test_gpt2s_weights_on_a_data_set_of_other_tokens_are_noted(
    run: core.Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    task(run).check({"vocab_size": 50257}, {"config": {"dataset": "tiny"}})
    assert caplog.messages == ["data/tiny/meta.pkl: 17 tokens, but the checkpoint's model has 50257"]


@pytest.mark.parametrize(("frozen", "refused"), [(False, True), (True, False)])
def test_a_batch_that_cannot_fit_is_refused_where_all_weights_train(
    frozen: bool, refused: bool, run: core.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "total_memory", lambda device: 2**20)
    tiny, start = (
        task(run, batch_size=1000, freeze_transformer=frozen),
        RunStart("scratch", None, core.RunFolder("out")),
    )
    make = model_maker(tiny.options, run, tiny.run_data, start, make_initializer(tiny.options, run, print), None)

    if refused:
        with pytest.raises(
            core.ConfigError, match=r"need .* KiB, and a batch of 1,000 x 16 tokens at least .* MiB, more"
        ):
            make()
    else:
        make()
