"""Checkpoints of the train_run line and the core line, built here by hand, become this program's."""

import enum
import json
import os
import re
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import model as model_module
import train
from core.checkpoint.find import find_latest_checkpoint
from core.checkpoint.format import load_checkpoint
from core.errors import CheckpointError, ConfigError
from core.optimizer import load_optimizer_state
from extras.freezing import freeze_transformer
from extras.unfreezing import replay
from model import GPT, GPTConfig
from tools.convert import convert, find, main, read

SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 16, "vocab_size": 32, "bias": False, "dropout": 0.0}
BIDIRECTIONAL = {"attention_type": "bidirectional", "position_encoding": "rotary"}
SCORER = {**BIDIRECTIONAL, "mode": "sequence_scorer", "cls_token_id": 22}  # 17 characters and 5
HEAD = {"linear.weight": "base_predictor.weight", "slope": "A", "offset": "B"}  # in the core line
State = dict[str, Any]


class ModelMode(enum.Enum):
    """The lines' own class, under the name they have it."""

    LANGUAGE_MODEL = "language_model"
    SEQUENCE_SCORER = "sequence_scorer"


@dataclass
class StickyStageConfig:
    """What one script of the train_run line leaves in place of its config."""

    val_loss_stale_count: int
    target_masked_ratio: float


class Runs:
    """A pickle that makes a folder when it is read as pickles are."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def save(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Path], Path]:
    """Return a function that saves as the lines do, with classes of modules that are gone when it is read."""

    def write(content: Any, path: Path) -> Path:
        with monkeypatch.context() as patch:
            old = types.ModuleType("train_utils")
            for kind, module in ((ModelMode, model_module), (StickyStageConfig, old)):
                patch.setattr(kind, "__module__", module.__name__)
                patch.setattr(module, kind.__name__, kind, raising=False)
            patch.setitem(sys.modules, "train_utils", old)
            torch.save(content, path)
        return path

    return write


def our_model(**args: Any) -> GPT:
    """Return a model of ours with random numbers in every tensor."""
    made = GPT(GPTConfig(**{**SIZES, **args}))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


def body(made: GPT) -> State:
    """Return the transformer's tensors in the lines' order: positions after everything else."""
    state = {name: tensor for name, tensor in made.state_dict().items() if name.startswith("transformer.")}
    return dict(sorted(state.items(), key=lambda item: "wpe" in item[0]))


def adamw(groups: list[list[str]], state: State, idle: tuple[str, ...] = (), weight_decay: float = 0.1) -> State:
    """Return AdamW's state after 7 steps; the moments of each tensor can be told from those of all others."""
    numbered = [name for group in groups for name in group]
    moments = {
        number: {"step": torch.tensor(7.0), "exp_avg": mark(name, state[name]), "exp_avg_sq": mark(name, state[name])}
        for number, name in enumerate(numbered)
        if name not in idle
    }
    settings = {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8, "amsgrad": False, "maximize": False, "foreach": None}
    return {
        "state": moments,
        "param_groups": [
            {
                **settings,
                "weight_decay": weight_decay if place % 2 == 0 else 0.0,
                "params": list(map(numbered.index, group)),
            }
            for place, group in enumerate(groups)
        ],
    }


def mark(name: str, tensor: Tensor) -> Tensor:
    draw = torch.Generator().manual_seed(sum(map(ord, name)) + tensor.numel())
    return torch.rand(tensor.shape, generator=draw) + 1.0


def by_dims(names: list[str], state: State) -> list[list[str]]:
    return [[name for name in names if (state[name].dim() >= 2) == decays] for decays in (True, False)]


def train_run(made: GPT, **changes: Any) -> State:
    """Return a language model's checkpoint as the train_run line has it."""
    state = OrderedDict({**body(made), "lm_head.weight": made.lm_head.weight.detach()})
    names = list(state)[:-1]
    return {
        "model": state,
        "optimizer": adamw(by_dims(names, state), state),
        "model_args": {
            **SIZES,
            "attention_type": made.config.attention_type,
            "use_rope": made.config.position_encoding == "rotary",
            "mode": ModelMode.LANGUAGE_MODEL,
            "num_token_classes": 2,
            "cls_token_id": None,
            "freeze_transformer": False,
            "unfreeze_lr_multiplier": 1,
        },
        "iter_num": 7,
        "best_val_loss": torch.tensor(2.5),
        "config": {"dataset": "tiny", "training_type": "unmasking"},
        "training_context": {
            "current_stage": 1,
            "val_loss_stale_count": 3,
            "best_val_loss_for_stage": torch.tensor(1.5),
            "entropy_multiplier_ema": torch.tensor(1.25, requires_grad=True),
        },
        **changes,
    }


def train_run_scorer(made: GPT) -> State:
    """Return a scorer's checkpoint as the train_run line has it: CLS is a row of the token embedding."""
    state = {**body(made), "sequence_head.0.weight": made.sequence_head.linear.weight.detach()}
    state["transformer.wte.weight"][22] = made.cls_embedding.detach()
    args = {
        **train_run(our_model())["model_args"],
        "use_rope": True,
        "mode": ModelMode.SEQUENCE_SCORER,
        "cls_token_id": 22,
    }
    return train_run(
        our_model(), model=state, optimizer=adamw(by_dims(list(state), state), state), model_args=args
    )  # fmt: skip


def core_scorer(made: GPT, optimizer: str) -> State:
    """Return a scorer's checkpoint as the core line has it. optimizer: `frozen`, or `unfrozen` since"""
    head = {f"sequence_head.{HEAD[name]}": tensor for name, tensor in made.sequence_head.state_dict().items()}
    head = {"sequence_head.temperature": torch.full((1,), 2.0), **head}
    state = {"cls_embedding": made.cls_embedding.detach(), **body(made), **head}
    own = [name for name in state if not name.startswith("transformer.")]
    groups = by_dims(own, state)
    if optimizer == "unfrozen":
        groups += by_dims([name for name in state if name not in own], state)
    args = {**SIZES, **BIDIRECTIONAL, "mode": ModelMode.SEQUENCE_SCORER, "cls_token_id": 22, "freeze_transformer": True}
    return {
        "model": state,
        "optimizer": adamw(groups, state, idle=("sequence_head.temperature",)),
        "model_args": {**args, "unfreeze_lr_multiplier": 0.5},
        "iter_num": 9,
        "best_val_loss": 0.25,
        "config": {"dataset": "sequence_scorer", "meta": {"training_type": "SEQUENCE_SCORING"}},
    }


def core_newest(made: GPT, scorer: GPT, **config: Any) -> State:
    """Return a checkpoint as the newest core line has it: every model has both heads, and may have a critic."""
    both = core_scorer(scorer, "frozen")["model"]
    state = {
        "cls_embedding": both["cls_embedding"], **body(made), "lm_head.weight": made.lm_head.weight.detach(),
        **{name: both[name] for name in both if name.startswith("sequence_head.")},
        "critic_head.weight": torch.ones(1, 32),
    }  # fmt: skip
    names = [name for name in state if name != "lm_head.weight"]
    idle = tuple(name for name in names if not name.startswith("transformer."))
    return {
        "model": {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
        "optimizer": adamw(by_dims(names, state), state, idle),
        "model_args": {**SIZES, "cls_token_id": 22, "use_guidance": False, "use_lora_attn": False, "lora_rank": 8},
        "iter_num": 11,
        "best_val_loss": 1.5,
        "config": {"model_mode": "language_model", **config},
    }


def as_read(old: State) -> State:
    """Return a checkpoint as it is after reading."""
    args, context = dict(old["model_args"]), {**old["training_context"], "entropy_multiplier_ema": torch.tensor(1.25)}
    return {**old, "model_args": {**args, "mode": args["mode"].value}, "training_context": context}


def outputs(args: State, weights: State, scores: bool = False) -> Tensor:
    made = GPT(GPTConfig(**args))
    made.load_state_dict(weights)
    ids = torch.randint(17, (4, 16), generator=torch.Generator().manual_seed(3))
    if scores:
        ids[:, 0] = 22
    with torch.no_grad():
        return made.eval()(ids, None if scores else ids % 3)[0]


def loaded_moments(made: GPT, optimizer: torch.optim.Optimizer, state: State) -> dict[str, State]:
    load_optimizer_state(optimizer, state)
    return {name: optimizer.state[parameter] for name, parameter in made.named_parameters()}


def converted_model(checkpoint: State) -> GPT:
    made = GPT(GPTConfig(**checkpoint["model_args"]))
    made.load_state_dict(checkpoint["model"])
    return made


# the restricted reader


def test_objects_become_plain_values(tmp_path: Path, save: Callable[[Any, Path], Path]) -> None:
    state = torch.nn.Linear(2, 3).state_dict()  # an OrderedDict with an attribute
    content = {
        "mode": ModelMode.SEQUENCE_SCORER, "config": StickyStageConfig(5, 0.25), "class": ModelMode, "none": None,
        "loss": np.float32(1.5), "n": np.int64(3), "bytes": b"\xff\x00",
        "state": state, "path": {1, 2}, "size": torch.Size([2, 3]),
    }  # fmt: skip
    found = read(save(content, tmp_path / "old.pt"))
    assert found["mode"] == "sequence_scorer"
    assert found["config"] == {
        "class": "train_utils.StickyStageConfig",
        "val_loss_stale_count": 5,
        "target_masked_ratio": 0.25,
    }
    assert (found["loss"], type(found["loss"]), found["n"]) == (1.5, float, 3)
    assert type(found["state"]) is dict and list(found["state"]) == ["weight", "bias"]
    assert torch.equal(found["state"]["weight"], state["weight"])
    assert sorted(found["path"]) == [1, 2] and found["size"] == (2, 3) and found["bytes"] == b"\xff\x00"
    assert found["none"] is None and found["class"] == "model.ModelMode"


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool]
)
def test_tensors_come_out_as_they_went_in(dtype: torch.dtype, tmp_path: Path) -> None:
    whole = torch.randn(4, 6).to(dtype)
    content = {"whole": whole, "part": whole[1:3, ::2], "turned": whole.T, "none": whole[:0], "number": whole[0, 0]}
    torch.save(content, tmp_path / "old.pt")
    found = read(tmp_path / "old.pt")
    for name, tensor in content.items():
        assert found[name].dtype == dtype and found[name].shape == tensor.shape and torch.equal(found[name], tensor)
    assert found["turned"].data_ptr() == found["whole"].data_ptr()  # one storage still


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    torch.save({"model": Runs(tmp_path / "ran"), "config": [Runs(tmp_path / "ran")]}, tmp_path / "old.pt")
    assert read(tmp_path / "old.pt") == {"model": str(tmp_path / "ran"), "config": [str(tmp_path / "ran")]}
    assert not (tmp_path / "ran").exists()
    with pytest.raises(FileExistsError):  # the second time: the file does make it where pickles are trusted
        torch.load(tmp_path / "old.pt", weights_only=False)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("damage", ["cut", "text", "missing", "short"])
def test_a_damaged_file_is_refused(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save({"weight": torch.ones(1000)}, path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "text":
        path.write_text("no checkpoint")
    elif damage == "missing":
        path.unlink()
    else:
        with zipfile.ZipFile(path) as file:
            records = {name: file.read(name) for name in file.namelist()}
        with zipfile.ZipFile(path, "w") as file:
            for name, record in records.items():
                file.writestr(name, record[:40] if name.endswith("data/0") else record)
    with pytest.raises(CheckpointError, match="cannot read"):
        read(path)


# the train_run line


@pytest.mark.parametrize("args", [{}, BIDIRECTIONAL])
def test_a_language_model_of_the_train_run_line(args: State, tmp_path: Path, save: Callable[[Any, Path], Path]) -> None:
    made = our_model(**args)
    old = train_run(made)
    old["model"]["transformer.h.0.attn.rotary_emb.inv_freq"] = torch.ones(8)  # once kept, made anew today
    checkpoint, notes = convert(read(save(old, tmp_path / "old.pt")))
    assert notes == []
    assert checkpoint["model_args"] == {**SIZES, **args}
    assert torch.equal(
        outputs(checkpoint["model_args"], checkpoint["model"]), outputs({**SIZES, **args}, made.state_dict())
    )
    assert (checkpoint["iter_num"], checkpoint["best_val_loss"]) == (7, 2.5)
    assert type(checkpoint["best_val_loss"]) is float
    assert checkpoint["config"] == old["config"]
    stage = {"current_stage": 1, "stale_count": 3, "best_val_loss": 1.5}
    assert checkpoint["callbacks"] == {"StageProgress": stage}
    average = checkpoint["objective"]["EntropyPenaltyModifier"]["multiplier_ema"]
    assert average == 1.25 and not average.requires_grad


def test_moments_follow_their_tensors_where_the_order_differs() -> None:
    made = our_model()  # with positions: the line has them last, this program second
    checkpoint, _ = convert(as_read(train_run(made)))
    model = converted_model(checkpoint)
    moments = loaded_moments(model, model.configure_optimizers(0.5, 1e-2, (0.8, 0.8), "cpu"), checkpoint["optimizer"])
    assert moments["transformer.wpe.weight"]["exp_avg"].shape == (16, 32)
    for name, tensor in model.named_parameters():
        assert torch.equal(moments[name]["exp_avg"], mark(name, tensor)), name
        assert moments[name]["step"] == 7
    assert [group["weight_decay"] for group in checkpoint["optimizer"]["param_groups"]] == [0.1, 0.0]


def test_a_scorer_of_the_train_run_line_gets_a_cls_embedding() -> None:
    made = our_model(**SCORER)
    torch.nn.init.ones_(made.sequence_head.slope)
    torch.nn.init.zeros_(made.sequence_head.offset)
    checkpoint, notes = convert(as_read(train_run_scorer(made)))
    assert checkpoint["model_args"] == {**SIZES, **SCORER}
    scores = outputs(checkpoint["model_args"], checkpoint["model"], scores=True)
    assert torch.equal(scores, outputs({**SIZES, **SCORER}, made.state_dict(), scores=True))
    assert any("slope" in note for note in notes)
    model = converted_model(checkpoint)
    moments = loaded_moments(model, model.configure_optimizers(0.1, 1e-2, (0.9, 0.9), "cpu"), checkpoint["optimizer"])
    rows = mark("transformer.wte.weight", made.transformer["wte"].weight)
    assert torch.equal(moments["cls_embedding"]["exp_avg"], rows[22])
    assert torch.equal(
        moments["sequence_head.linear.weight"]["exp_avg"], mark("sequence_head.0.weight", torch.ones(1, 32))
    )
    assert not moments["sequence_head.slope"] and "callbacks" not in checkpoint


def test_a_classifier_is_bidirectional_whatever_it_was_told() -> None:
    args = {"attention_type": "bidirectional", "mode": "token_classifier", "num_token_classes": 3}
    made = our_model(**args)
    old = as_read(train_run(our_model()))
    old["model"] = {**body(made), "lm_head.weight": made.lm_head.weight.detach()}
    old["optimizer"] = adamw(by_dims(list(old["model"]), old["model"]), old["model"])
    old["model_args"]["mode"] = "token_classifier"  # attention_type is causal
    checkpoint, notes = convert(old)
    assert checkpoint["model_args"] == {**SIZES, **args} and notes == []
    assert torch.equal(
        outputs(checkpoint["model_args"], checkpoint["model"]), outputs({**SIZES, **args}, made.state_dict())
    )


def test_a_stage_in_place_of_the_config_is_no_config(tmp_path: Path, save: Callable[[Any, Path], Path]) -> None:
    old = train_run(our_model(), config=StickyStageConfig(5, 0.25))
    assert convert(read(save(old, tmp_path / "old.pt"))).checkpoint["config"] == {"training_type": "language_model"}


# the core line


@pytest.mark.parametrize("phase", ["frozen", "unfrozen"])
def test_a_scorer_of_the_core_line(phase: str, tmp_path: Path, save: Callable[[Any, Path], Path]) -> None:
    made = our_model(**SCORER)
    checkpoint, notes = convert(read(save(core_scorer(made, phase), tmp_path / "old.pt")))
    assert checkpoint["model_args"] == {**SIZES, **SCORER}
    scores = outputs(checkpoint["model_args"], checkpoint["model"], scores=True)
    assert torch.equal(scores, outputs({**SIZES, **SCORER}, made.state_dict(), scores=True))
    assert any("sequence_head.temperature" in note for note in notes)

    model = converted_model(checkpoint)  # as a run that began with a frozen transformer resumes it
    freeze_transformer(model)
    optimizer = model.configure_optimizers(0.1, 1e-2, (0.9, 0.9), "cpu")
    replay(model, optimizer, checkpoint["optimizer"], 0.1)
    moments = loaded_moments(model, optimizer, checkpoint["optimizer"])
    names = {f"sequence_head.{ours}": f"sequence_head.{theirs}" for ours, theirs in HEAD.items()}
    for name, tensor in model.named_parameters():
        assert tensor.requires_grad == (phase == "unfrozen" or not name.startswith("transformer."))
        if tensor.requires_grad:
            assert torch.equal(moments[name]["exp_avg"], mark(names.get(name, name), tensor)), name
    factors = [group.get("lr_factor") for group in optimizer.param_groups]
    assert factors == ([None] * 2 if phase == "frozen" else [0.5] * 4)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0] * (len(factors) // 2)


def test_the_train_run_lines_optimizer_after_unfreezing_is_extended() -> None:
    old = as_read(train_run_scorer(our_model(**SCORER)))
    old["model_args"] |= {"freeze_transformer": True, "unfreeze_lr_multiplier": 0.25}
    groups = convert(old).checkpoint["optimizer"]["param_groups"]
    assert [bool(group.get("unfrozen")) for group in groups] == [False, False, True, True]
    assert [group["lr_factor"] for group in groups] == [0.25] * 4
    assert [len(group["params"]) for group in groups] == [1, 3, 9, 5]


def test_of_two_heads_the_one_of_its_mode_is_kept() -> None:
    made, scorer = our_model(**BIDIRECTIONAL), our_model(**SCORER)
    checkpoint, notes = convert(core_newest(made, scorer))
    assert checkpoint["model_args"] == {**SIZES, **BIDIRECTIONAL}
    args = {**SIZES, **BIDIRECTIONAL}
    warned = convert(core_newest(made, scorer, model_mode="token_classifier"))  # which such a version no longer knows
    assert warned.checkpoint["model_args"] == args
    assert torch.equal(outputs(args, checkpoint["model"]), outputs(args, made.state_dict()))
    assert "critic_head.weight" in notes[0] and "cls_embedding" in notes[0]
    model = converted_model(checkpoint)
    moments = loaded_moments(model, model.configure_optimizers(0.1, 1e-2, (0.9, 0.9), "cpu"), checkpoint["optimizer"])
    for name, tensor in model.named_parameters():
        assert torch.equal(moments[name]["exp_avg"], mark(name, tensor)), name

    for other in (
        convert(core_newest(made, scorer), "sequence_scorer"),
        convert(core_newest(made, scorer, model_mode="sequence_scorer")),
    ):
        assert other.checkpoint["model_args"] == {**SIZES, **SCORER}
        weights = {**scorer.state_dict(), **body(made)}
        scores = outputs({**SIZES, **SCORER}, other.checkpoint["model"], scores=True)
        assert torch.equal(scores, outputs({**SIZES, **SCORER}, weights, scores=True))


# what does not go


def test_a_mode_that_the_model_has_no_head_for_is_refused() -> None:
    old = as_read(train_run(our_model()))
    with pytest.raises(ConfigError, match="--mode=sequence_scorer: this checkpoint is a language_model"):
        convert(old, "sequence_scorer")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("transformer.h.0.attn.lora_qkv.A.weight", "LoRA"),
        ("plan_encoder.plan_emb", "plan encoder"),
        ("transformer.h.1.cross.q.weight", "plan encoder"),
        ("transformer.h.0.attn.gate", "gate is not known"),
    ],
)
def test_parts_that_the_model_lacks_are_refused(name: str, said: str) -> None:
    old = core_newest(our_model(**BIDIRECTIONAL), our_model(**SCORER))
    old["model"][name] = torch.ones(4)
    with pytest.raises(CheckpointError, match=said):
        convert(old)


def test_an_untied_lm_head_is_refused() -> None:
    old = core_newest(our_model(**BIDIRECTIONAL), our_model(**SCORER))
    old["model"]["_orig_mod.lm_head.weight"] = torch.ones(32, 32)
    with pytest.raises(CheckpointError, match="lm_head.weight is not the token embedding"):
        convert(old)


def test_a_scorer_without_a_cls_token_is_refused() -> None:
    old = core_scorer(our_model(**SCORER), "frozen")
    old["model_args"]["cls_token_id"] = None
    old["model_args"]["mode"] = "sequence_scorer"
    with pytest.raises(CheckpointError, match="cls_token_id is None"):
        convert(old)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ranks": []}, "nothing to convert"),
        ({"model": None}, "no model"),
        ({"model": {"a": 1}}, "no tensors"),
        ({"model_args": {"n_layer": 2}}, "lack n_head"),
        ({"model_args": {**SIZES, "n_layer": 1}}, "not known"),
        ({"model_args": {**SIZES, "n_layer": 3}}, "is missing"),
        ({"model_args": {**SIZES, "vocab_size": 31}}, "wanted .31, 32."),
    ],
)
def test_what_is_no_such_checkpoint_is_refused(change: State, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        convert({**as_read(train_run(our_model())), **change})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"optimizer": None}, "has none"),
        ({"optimizer": {"state": {}, "param_groups": [{"params": [0, 1]}]}}, "groups of .2. tensors"),
        ({"optimizer": {"state": {}}}, "damaged, KeyError"),
    ],
)
def test_an_optimizer_that_cannot_be_mapped_is_left_out_and_said_so(change: State, said: str) -> None:
    checkpoint, notes = convert({**as_read(train_run(our_model())), **change})
    assert "optimizer" not in checkpoint
    assert len(notes) == 1 and "not resumed" in notes[0]
    assert re.search(said, notes[0])


# finding and writing


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).touch()


def test_of_a_folder_the_newest_by_number_else_ckpt_pt(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        find(tmp_path)
    touch(tmp_path, "ckpt.pt")
    assert find(tmp_path) == tmp_path / "ckpt.pt"
    touch(tmp_path, "ckpt_sequence_scorer_900.pt", "ckpt_sequence_scorer_1000.pt", "ckpt_sequence_scorer_x.pt")
    assert find(tmp_path) == tmp_path / "ckpt_sequence_scorer_1000.pt"
    assert find(tmp_path / "ckpt.pt") == tmp_path / "ckpt.pt"


def test_the_sidecar_is_believed_first(tmp_path: Path) -> None:
    touch(tmp_path, "ckpt_MLM_4.pt", "ckpt_MLM_8.pt")
    sidecar = tmp_path / "ckpt_meta.json"
    sidecar.write_text(json.dumps({"MLM": {"last_path": "../elsewhere/ckpt_MLM_4.pt", "iter": 4}}))
    assert find(tmp_path) == find(sidecar) == tmp_path / "ckpt_MLM_4.pt"
    sidecar.write_text(json.dumps({"MLM": {"last_path": "ckpt_MLM_6.pt", "iter": 6}}))
    with pytest.raises(CheckpointError, match="no checkpoint at .*ckpt_MLM_6.pt"):
        find(sidecar)
    sidecar.write_text("{")
    assert find(sidecar) == tmp_path / "ckpt_MLM_8.pt"


def test_a_folder_of_two_kinds_of_training_needs_a_choice(tmp_path: Path) -> None:
    touch(tmp_path, "ckpt_MLM_4.pt", "ckpt_MLM_8.pt", "ckpt_SEQUENCE_SCORING_2.pt")
    with pytest.raises(
        CheckpointError, match=r"ckpt_SEQUENCE_SCORING_2.pt, .*ckpt_MLM_8.pt|ckpt_MLM_8.pt, .*SCORING_2.pt"
    ):
        find(tmp_path)


def test_the_result_is_written_beside_the_old_one_and_never_over_another(
    tmp_path: Path, save: Callable[[Any, Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    old = save(train_run(our_model(), optimizer=None), tmp_path / "ckpt_unmasking_7.pt")
    capsys.readouterr()
    target = main([str(old)])
    assert target == tmp_path / "ckpt_unmasking_7-converted" / "ckpt.pt"
    first, note = capsys.readouterr().out.splitlines()
    assert first == f"{target}: the unmasking model of {old}, after 7 iterations"
    assert note.startswith("  no optimizer state (the checkpoint has none)")
    with pytest.raises(ConfigError, match="is there already"):
        main([str(old)])
    assert main([str(tmp_path), "--out", str(tmp_path / "here" / "mine.pt")]).is_file()
    assert load_checkpoint(tmp_path / "here" / "mine.pt")["model_args"] == SIZES


def test_an_error_names_the_file(tmp_path: Path) -> None:
    torch.save({"weights": 1}, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match="ckpt.pt: this is no checkpoint of the train_run line"):
        main([str(tmp_path)])
    assert os.listdir(tmp_path) == ["ckpt.pt"]


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "language_model"),
        (BIDIRECTIONAL, "unmasking"),
        ({**BIDIRECTIONAL, "mode": "token_classifier"}, "token_classification"),
        (SCORER, "sequence_scoring"),
    ],
)
def test_the_config_says_what_the_model_learns(changes: dict[str, Any], kind: str) -> None:
    made = our_model(**changes)
    old = as_read(train_run_scorer(made) if kind == "sequence_scoring" else train_run(made))
    if kind == "token_classification":
        old["model"], old["optimizer"] = made.state_dict(), None
        old["model_args"]["mode"] = "token_classifier"
    old["config"] = {"dataset": "tiny", "training_type": "LM"}

    assert convert(old).checkpoint["config"] == {"dataset": "tiny", "training_type": kind}


# using


UNMASKING = ["--training_type=unmasking", "--position_encoding=rotary", "--dropout=0.0"]


def test_a_converted_run_is_resumed_and_serves_other_runs(
    run_dir: Path, tiny_argv: list[str], save: Callable[[Any, Path], Path]
) -> None:
    filler, scorer = our_model(**BIDIRECTIONAL), our_model(**SCORER)
    stages = [{"type": "random", "max_masked_ratio": ratio, "val_loss_stale_count": 9} for ratio in (0.3, 0.5, 0.7)]
    Path("stages.py").write_text(f"unmasking_stages = {stages}\n")
    main([str(save(train_run(filler), run_dir / "ckpt_unmasking_7.pt")), "--out", "out"])
    main([str(save(train_run_scorer(scorer), run_dir / "ckpt_sequence_scorer_7.pt")), "--out", "judge"])

    argv = [*tiny_argv, *UNMASKING, "stages.py", "--out_dir=out", "--max_iters=8", "--eval_interval=8"]
    train.main([*argv, "--init_from=resume"])
    resumed = load_checkpoint(find_latest_checkpoint("out"))
    assert resumed["iter_num"] == 9
    assert all(moments["step"] == 9 for moments in resumed["optimizer"]["state"].values())
    progress = resumed["callbacks"]["StageProgress"]
    assert progress["current_stage"] == 1 and progress["stale_count"] == 4 and progress["best_val_loss"] == 1.5

    main([str(run_dir / "ckpt_unmasking_7.pt"), "--out", "filler"])
    use = ["--init_from_checkpoint=filler", "--unmasking_model_checkpoint=filler", "--training_type=sequence_scoring"]
    train.main([*tiny_argv, *UNMASKING, *use, "--out_dir=scorer", "--max_iters=1", "--eval_interval=1"])
    assert load_checkpoint("scorer/ckpt.pt")["model_args"]["mode"] == "sequence_scorer"
    judge = ["--enable_judge_model=True", "--judge_model_checkpoint=judge"]
    train.main([*tiny_argv, *UNMASKING, *judge, "--out_dir=judged", "--max_iters=1", "--eval_interval=1"])
    assert Path("judged/ckpt.pt").is_file()
