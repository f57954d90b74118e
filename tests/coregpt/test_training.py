"""Training from Python: parts that are handed in, what comes back, and what is refused before anything is moved."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import coregpt
import train as program
from benchmark.soak.campaign import ranks
from core.checkpoint.format import load_checkpoint
from data.tokenizers import CharTokenizer
from tests.comparing import assert_same
from tools.run_hash import run_hash


class Net(nn.Module):
    """A model with nothing but a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(8, 8)
        self.head = nn.Linear(8, 8)

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor | None = None) -> Any:
        logits = self.head(self.emb(inputs))
        loss = None if targets is None else nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return logits, loss


class Steps:
    """Batches of a sequence that counts."""

    vocab_size = 8

    def get_batch(self, split: str) -> Any:
        start = torch.randint(8, (4, 1))
        ids = (start + torch.arange(6)) % 8
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


TINY = {"device": "cpu", "compile": False, "max_iters": 4, "eval_interval": 2, "eval_iters": 2, "dtype": "float32",
        "n_layer": 1, "n_head": 1, "n_embd": 8, "block_size": 5, "batch_size": 4, "learning_rate": 0.1,
        "gradient_accumulation_steps": 1, "warmup_iters": 0, "out_dir": "out"}  # fmt: skip


def test_it_equals_the_command_line(run_dir: Path, tiny_argv: list[str]) -> None:
    best = program.main([*tiny_argv, "--out_dir=by-command"])
    result = coregpt.train([*tiny_argv, "--out_dir", "by-python"])

    assert (result.best_val_loss, result.out_dir, result.stopped) == (best, "by-python", None)
    assert run_hash("by-command") == run_hash("by-python")
    assert_same(dict(result.model.state_dict()), load_checkpoint(coregpt.find_latest_checkpoint("by-python"))["model"])


def test_every_part_can_be_handed_in(run_dir: Path) -> None:
    seen: dict[str, Any] = {"lr": [], "steps": 0, "metrics": []}

    class Steady(coregpt.Callback):
        def on_step_end(self, trainer: Any, result: Any) -> None:
            seen["lr"].append(trainer.step.optimizer.param_groups[0]["lr"])

    class Log(coregpt.Logger):
        def log_step(self, metrics: Any) -> None:
            seen["steps"] += 1

        def log_eval(self, metrics: Any) -> None:
            seen["metrics"].append(metrics)

    net = Net()
    result = coregpt.train(
        TINY,
        data=Steps(),
        objective=lambda model, batch, train: 2 * model(*batch)[1],
        model=net,
        tokenizer=CharTokenizer.from_text("abcdefgh"),
        optimizer=torch.optim.SGD(net.parameters(), lr=1.0),
        scheduler=lambda iter_num: 0.5 + iter_num,
        metrics=lambda model, split: {f"{split}/weight": float(model.head.bias.sum())},
        loggers=[Log()],
        callbacks=[Steady()],
    )

    assert result.model is net and seen["lr"] == [0.5, 1.5, 2.5, 3.5, 4.5] and seen["steps"] == 5
    assert {"train/weight", "val/weight"} <= seen["metrics"][0].keys()
    saved = load_checkpoint("out/ckpt.pt")
    assert saved["tokenizer"]["itos"][1] == "b" and "momentum_buffer" not in str(saved["optimizer"])
    assert result.best_val_loss < 2 * 2.1  # ln 8, twice


def test_a_ready_model_is_saved_before_its_first_update_and_goes_on(run_dir: Path) -> None:
    torch.manual_seed(5)
    whole, first = Net(), Net()
    first.load_state_dict(whole.state_dict())
    beginning = {name: value.clone() for name, value in whole.state_dict().items()}
    coregpt.train({**TINY, "out_dir": "whole", "keep_last": 9}, data=Steps(), model=whole)
    numbered = sorted(Path("whole").glob("ckpt-*.pt"))
    assert_same(load_checkpoint(numbered[0])["model"], beginning)

    coregpt.train({**TINY, "max_iters": 2}, data=Steps(), model=first)
    resumed = coregpt.train({**TINY, "init_from": "resume"}, data=Steps(), model=Net())
    assert_same(resumed.model.state_dict(), whole.state_dict())


def test_a_ready_model_rolls_back_before_its_first_evaluation_saves(run_dir: Path) -> None:
    class Poison(coregpt.Callback):
        def on_step_end(self, trainer: Any, result: Any) -> None:
            if trainer.iter_num == 0 and not trainer.monitor.history:
                with torch.no_grad():
                    trainer.raw_model.head.bias.fill_(float("nan"))

    result = coregpt.train({**TINY, "eval_interval": 100}, data=Steps(), model=Net(), callbacks=[Poison()])

    assert all(value.isfinite().all() for value in result.model.state_dict().values())


def test_an_interrupt_saves_the_run_and_returns(run_dir: Path) -> None:
    class Interrupt(coregpt.Callback):
        def on_step_end(self, trainer: Any, result: Any) -> None:
            if trainer.iter_num == 2:
                os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    result = coregpt.train({**TINY, "max_iters": 9, "dataset": "tiny"}, callbacks=[Interrupt()])

    assert result.stopped is not None and result.stopped.startswith("stopped by SIGINT at iteration 3; to go on: ")
    assert (
        load_checkpoint(coregpt.find_latest_checkpoint("out"))["iter_num"] == 3
        and signal.getsignal(signal.SIGINT) is before
    )


class Deaf(nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"data": [1]}, r"^data: got a list, wanted an object with get_batch\(split\) -> batch"),
        ({"model": "gpt2"}, "^model: got a str, wanted an nn.Module with forward"),
        ({"model": Deaf()}, r"^model: the Deaf's forward takes \(inputs: torch.Tensor\)"),
        ({"model": nn.Bilinear(2, 2, 2).requires_grad_(False)}, "^model: the Bilinear has no parameter that "),
        ({"tokenizer": 3}, "^tokenizer: the int has no encode, wanted encode"),
        ({"objective": 3}, "^objective: got a int, wanted an Objective or "),
        ({"scheduler": 0.1}, "^scheduler: got a float, wanted an LRScheduler or "),
        ({"metrics": ["bleu"]}, "^metrics: got a list, wanted "),
        ({"optimizer": "adamw"}, "^optimizer: got a str, wanted a torch optimizer or "),
        ({"optimizer": torch.optim.AdamW}, "^optimizer: got a type, wanted a torch optimizer or "),
        ({"model": Net(), "optimizer": torch.optim.SGD(Net().parameters())}, "^optimizer: 3 of its 3 tensors "),
        ({"tokenizer": CharTokenizer.from_text("ab")}, "^tokenizer: data are not handed in, and those of tiny have"),
        ({"loggers": [print]}, r"^loggers: the builtin_function_or_method has no log_step\(metrics\)"),
        ({"loggers": print}, r"^loggers: got builtin_function_or_method alone, wanted a list of them: loggers=\["),
        ({"callbacks": [3]}, r"callbacks\[0\]"),
        ({"callbacks": coregpt.EarlyStopping()}, r"^callbacks: got EarlyStopping alone, wanted a list of them: callb"),
        ({"objective": coregpt.CosineLRScheduler(1.0, 0, 10, 0.1)}, "^objective: got a CosineLRScheduler, wanted an "),
    ],
)  # fmt: skip
def test_a_part_that_cannot_work_is_one_message(run_dir: Path, parts: dict[str, Any], message: str) -> None:
    Path("out").mkdir()
    Path("out/ckpt.pt").write_text("of an earlier run")

    with pytest.raises(coregpt.ConfigError, match=message):
        coregpt.train({**TINY, "dataset": "tiny"}, **parts)
    assert os.listdir("out") == ["ckpt.pt"]


def test_an_option_that_a_part_leaves_without_effect_is_refused(run_dir: Path) -> None:
    for changes, parts, message in (
        ({"training_type": "unmasking"}, {"data": Steps()}, "^training_type=unmasking: with data that are handed in"),
        ({"freeze_transformer": True}, {"model": Net()}, "^freeze_transformer changes models that the options make"),
    ):
        with pytest.raises(coregpt.ConfigError, match=message):
            coregpt.train({**TINY, "dataset": "tiny", **changes}, **parts)  # type: ignore[arg-type]


def test_a_stop_before_the_model_is_made_returns(run_dir: Path) -> None:
    result = coregpt.train({**TINY, "dataset": "tiny", "time_limit": 1e-12})

    assert result.stopped is not None and "before the first update" in result.stopped


def test_a_callback_that_ends_the_run_is_named(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Enough(coregpt.Callback):
        def on_step_end(self, trainer: Any, result: Any) -> None:
            trainer.stop("enough")

    result = coregpt.train(TINY, data=Steps(), model=Net(), callbacks=[Enough()])
    assert result.stopped == "enough"
    assert "to go on: coregpt.train with the same parts, init_from='resume'" in capsys.readouterr().err


def test_two_ranks_save_a_ready_model_before_its_first_update(run_dir: Path) -> None:
    def work() -> None:
        torch.manual_seed(3)
        coregpt.train({**TINY, "gradient_accumulation_steps": 2, "keep_last": 9}, data=Steps(), model=Net())

    assert ranks(work, 2, run_dir) == [0, 0]
    manifests = sorted((run_dir / "out").glob("ckpt-*.json"))
    assert json.loads(manifests[0].read_text())["iter_num"] == 0


# options


def test_options_are_made_changed_saved_and_loaded(run_dir: Path) -> None:
    Path("mine.py").write_text("n_layer = 3\n")
    made = coregpt.options("mine.py", "--batch_size", "7", dataset="tiny", max_iters=1e3)
    assert (made.n_layer, made.batch_size, made.max_iters, made.dataset) == (3, 7, 1000, "tiny")

    changed = made.replace(n_layer="4", out_dir="out-4")
    changed.save("four.yaml")
    loaded = coregpt.options("four.yaml")
    assert loaded == changed and changed.n_layer == 4 and loaded.model_fields_set == changed.model_fields_set


def test_a_resume_by_name_reads_the_options_of_that_run(run_dir: Path) -> None:
    coregpt.train({**TINY, "dataset": "tiny", "out_dir": "mine"})

    found = coregpt.options(init_from="resume", out_dir="mine")
    assert (found.dataset, found.n_embd, found.out_dir) == ("tiny", 8, "mine")


def test_wrong_values_are_listed(run_dir: Path) -> None:
    with pytest.raises(coregpt.ConfigError, match="^layers: no such option\nn_head: got 'x', wanted int >= 1"):
        coregpt.options(n_head="x", layers=3)
    with pytest.raises(coregpt.ConfigError, match="n_embd=7 must be divisible"):
        coregpt.options().replace(n_embd=7, n_head=2)
    with pytest.raises(coregpt.ConfigError, match="no such preset or file, did you mean quickstart"):
        coregpt.train("quickstrt")
