"""AdamW as the model configures it, and loading its state."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from core.errors import CheckpointError
from core.optimizer import load_optimizer_state, make_adafactor
from model import GPT
from tests.comparing import assert_same

DECAY, LR, BETAS = 0.1, 1e-2, (0.8, 0.9)


def make_optimizer(model: GPT, weight_decay: float = DECAY) -> torch.optim.AdamW:
    return model.configure_optimizers(weight_decay, LR, BETAS, "cpu")


def update(model: GPT, optimizer: torch.optim.Optimizer, times: int = 1) -> None:
    """Make updates on random tokens that fill the model's context."""
    for _ in range(times):
        tokens = torch.randint(model.config.vocab_size, (2, model.config.block_size))
        model(tokens, tokens)[1].backward()
        optimizer.step()
        optimizer.zero_grad()


def by_hand(start: torch.Tensor, gradients: Sequence[torch.Tensor], weight_decay: float) -> torch.Tensor:
    """Return a tensor after AdamW's updates in double precision, by the formulas of Loshchilov and Hutter."""
    weight, mean, square = start.double(), torch.zeros_like(start).double(), torch.zeros_like(start).double()
    for count, gradient in enumerate(gradients, start=1):
        mean = BETAS[0] * mean + (1 - BETAS[0]) * gradient
        square = BETAS[1] * square + (1 - BETAS[1]) * gradient**2
        direction = (mean / (1 - BETAS[0] ** count)) / ((square / (1 - BETAS[1] ** count)).sqrt() + 1e-8)
        weight = weight - LR * (direction + weight_decay * weight)
    return weight.float()


@pytest.mark.parametrize(
    ("name", "weight_decay"),
    [("lm_head.weight", DECAY), ("transformer.h.1.mlp.c_fc.weight", DECAY), ("transformer.ln_f.weight", 0.0)],
)
def test_three_updates_are_adamws_and_only_matrices_decay(tiny_model: GPT, name: str, weight_decay: float) -> None:
    optimizer = make_optimizer(tiny_model)
    parameter = dict(tiny_model.named_parameters())[name.replace("lm_head", "transformer.wte")]
    start = parameter.detach().clone()
    draws = [torch.randn_like(parameter) for _ in range(3)]
    for draw in draws:
        parameter.grad = draw.clone()
        optimizer.step()

    torch.testing.assert_close(parameter.detach(), by_hand(start, draws, weight_decay))


def test_a_restored_optimizer_continues_like_the_saved_one(tiny_model: GPT) -> None:
    """As in nanoGPT, the saved weight decay is restored; learning rates are set in every iteration."""
    optimizer = make_optimizer(tiny_model)
    update(tiny_model, optimizer, times=2)
    resumed_model = copy.deepcopy(tiny_model)
    restored = make_optimizer(resumed_model, weight_decay=7.0)

    load_optimizer_state(restored, copy.deepcopy(optimizer.state_dict()))

    assert [group["weight_decay"] for group in restored.param_groups] == [DECAY, 0.0]
    for model, its_optimizer in [(tiny_model, optimizer), (resumed_model, restored)]:
        torch.manual_seed(5)
        update(model, its_optimizer, times=2)
    for ours, theirs in zip(tiny_model.parameters(), resumed_model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_moments_are_cropped_with_the_position_embedding(tiny_model: GPT) -> None:
    optimizer = make_optimizer(tiny_model)
    update(tiny_model, optimizer, times=2)
    state = optimizer.state_dict()
    tiny_model.crop_block_size(6)
    cropped = make_optimizer(tiny_model)

    load_optimizer_state(cropped, state)

    positions = tiny_model.transformer["wpe"].weight
    moments = cropped.state[positions]
    (key,) = [key for key, saved in state["state"].items() if saved["exp_avg"].shape == (16, 32)]
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(moments[name], state["state"][key][name][:6])
        assert moments[name].untyped_storage().nbytes() == 6 * 32 * 4  # the cropped rows are not saved
    assert moments["step"] == 2
    before = positions.detach().clone()
    update(tiny_model, cropped)
    assert not torch.equal(positions, before)


OLDER = {"sorted": False, "sorted, embeddings not decayed": True}


def older_state(model: GPT, optimizer: torch.optim.Optimizer, moved: bool) -> dict[str, Any]:
    """Return an optimizer's state as nanoGPT saved it before May 2023: sorted by name.

    moved: the embeddings are in the group without decay
    """
    state, names = optimizer.state_dict(), {parameter: name for name, parameter in model.named_parameters()}
    now = [[names[parameter] for parameter in group["params"]] for group in optimizer.param_groups]
    embeddings = ["transformer.wpe.weight", "transformer.wte.weight"] if moved else []
    then = [sorted(set(now[0]) - set(embeddings)), sorted([*now[1], *embeddings])]
    order = [now[0].index(name) if name in now[0] else len(now[0]) + now[1].index(name) for name in then[0] + then[1]]
    numbers = iter(range(len(order)))
    groups = [
        {**group, "params": [next(numbers) for _ in group_names]}
        for group, group_names in zip(state["param_groups"], then, strict=True)
    ]
    return {"state": {new: state["state"][old] for new, old in enumerate(order)}, "param_groups": groups}


@pytest.mark.parametrize("kind", OLDER)
@pytest.mark.parametrize("n_layer", [1, 2, 11])
def test_moments_of_an_older_nanogpt_are_assigned_by_name(
    tiny_model: GPT, kind: str, n_layer: int, caplog: pytest.LogCaptureFixture
) -> None:
    """With 11 layers h.10 is sorted before h.2."""
    model = GPT(replace(tiny_model.config, n_layer=n_layer, bias=True))
    optimizer = make_optimizer(model)
    update(model, optimizer, times=2)
    names = {parameter: name for name, parameter in model.named_parameters()}
    restored = make_optimizer(model)

    with caplog.at_level("INFO", logger="coregpt"):
        load_optimizer_state(restored, older_state(model, optimizer, OLDER[kind]), names)

    for parameter, moments in optimizer.state.items():
        assert all(torch.equal(restored.state[parameter][name], value) for name, value in moments.items())
    assert [group["weight_decay"] for group in restored.param_groups] == [DECAY, 0.0]
    (note,) = caplog.messages
    assert "of an older nanoGPT (before May 2023)" in note and ("embeddings" in note) is OLDER[kind]


@pytest.mark.parametrize("kind", OLDER)
def test_moments_of_an_older_nanogpt_are_cropped_with_the_positions(tiny_model: GPT, kind: str) -> None:
    optimizer = make_optimizer(tiny_model)
    update(tiny_model, optimizer)
    state = older_state(tiny_model, optimizer, OLDER[kind])
    positions = optimizer.state[tiny_model.transformer["wpe"].weight]["exp_avg"]
    tiny_model.crop_block_size(6)
    names = {parameter: name for name, parameter in tiny_model.named_parameters()}
    cropped = make_optimizer(tiny_model)

    load_optimizer_state(cropped, state, names)

    assert torch.equal(cropped.state[tiny_model.transformer["wpe"].weight]["exp_avg"], positions[:6])


@pytest.mark.parametrize("prefix", ["", "_fsdp_wrapped_module._orig_mod."])
def test_moments_that_are_saved_by_name_are_assigned_by_name(tiny_model: GPT, prefix: str) -> None:
    """As FSDP and torch.distributed.checkpoint save them."""
    tiny_model.transformer["wpe"].weight.requires_grad_(False)  # frozen: in the model, and not in the optimizer
    optimizer = make_optimizer(tiny_model)
    update(tiny_model, optimizer)
    names = {parameter: name for name, parameter in tiny_model.named_parameters()}
    keys = [prefix + names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    state = copy.deepcopy(optimizer.state_dict())
    state["state"] = {keys[number]: moments for number, moments in state["state"].items()}
    for group in state["param_groups"]:
        group["params"] = [keys[number] for number in reversed(group["params"])]
    restored = make_optimizer(tiny_model)

    load_optimizer_state(restored, copy.deepcopy(state), names)

    for parameter, moments in optimizer.state.items():
        assert torch.equal(restored.state[parameter]["exp_avg"], moments["exp_avg"])

    state["param_groups"][0]["params"][0] = "value_head.weight"
    with pytest.raises(CheckpointError, match="tensors of other names: it was saved for another model"):
        load_optimizer_state(restored, state, names)


def test_the_order_of_today_is_not_taken_for_an_older_one(tiny_model: GPT, caplog: pytest.LogCaptureFixture) -> None:
    """A model of which many tensors have one shape, and one without moments yet."""
    model = GPT(replace(tiny_model.config, vocab_size=96, block_size=32))
    names = {parameter: name for name, parameter in model.named_parameters()}
    fresh, optimizer = make_optimizer(model), make_optimizer(model)
    load_optimizer_state(make_optimizer(model), fresh.state_dict(), names)
    update(model, optimizer)
    restored = make_optimizer(model)
    with caplog.at_level("INFO", logger="coregpt"):
        load_optimizer_state(restored, optimizer.state_dict(), names)

    assert caplog.messages == []
    for parameter, moments in optimizer.state.items():
        assert torch.equal(restored.state[parameter]["exp_avg"], moments["exp_avg"])


def test_a_step_count_that_is_a_plain_number_is_restored(tiny_model: GPT) -> None:
    """As AdamW of torch before 1.12 saved it."""
    optimizer = make_optimizer(tiny_model)
    update(tiny_model, optimizer, times=2)
    state = copy.deepcopy(optimizer.state_dict())
    for moments in state["state"].values():
        moments["step"] = 2
    restored = make_optimizer(tiny_model)

    load_optimizer_state(restored, state)
    update(tiny_model, restored)

    assert {int(moments["step"]) for moments in restored.state.values()} == {3}


def test_the_state_of_another_kind_of_optimizer_is_refused(tiny_model: GPT) -> None:
    """It would fail at the first update otherwise."""
    optimizer = make_optimizer(tiny_model)
    update(tiny_model, optimizer)
    state = copy.deepcopy(optimizer.state_dict())
    for moments in state["state"].values():
        del moments["exp_avg_sq"]

    with pytest.raises(
        CheckpointError, match=r"is not AdamW: it holds step, exp_avg, wanted exp_avg, exp_avg_sq, step"
    ):
        load_optimizer_state(make_optimizer(tiny_model), state)


def test_moments_of_a_wider_model_are_refused_and_not_cropped(tiny_model: GPT) -> None:
    wider = GPT(replace(tiny_model.config, n_embd=64))
    optimizer = make_optimizer(wider)
    update(wider, optimizer)

    with pytest.raises(CheckpointError, match=r"shape \(17, 64\) for a tensor of shape \(17, 32\)"):
        load_optimizer_state(make_optimizer(tiny_model), optimizer.state_dict())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: state["param_groups"][0].pop("betas"), "KeyError: 'betas'"),
        (lambda state: state["param_groups"][0].update(betas=(0.9, 1.0)), "beta2=1.0"),
        (lambda state: state["param_groups"][0].update(betas=(0.9, 0.9, 0.9)), "too many values to unpack"),
        (lambda state: state["param_groups"][1].update(weight_decay="x"), "could not convert string to float"),
        (lambda state: state["param_groups"][1].update(lr=float("nan")), "lr=nan"),
        (lambda state: state["state"][0].update(exp_avg=torch.zeros(3)), r"exp_avg of shape \(3,\) for a tensor of"),
        (
            lambda state: state["state"][0].update(step=torch.tensor(-5.0)),
            "a tensor has step=-5.0, and holds step, exp_avg, exp_avg_sq",
        ),
        (
            lambda state: state["param_groups"][0].update(amsgrad=True),
            "a tensor has step=1.0, and holds step, exp_avg, exp_avg_sq",
        ),
        (lambda state: state["state"][0].update(exp_avg_sq="x"), "'str' object has no attribute 'shape'"),
    ],
)
def test_settings_and_moments_that_adamw_cannot_use_are_refused(
    damage: Callable[[dict[str, Any]], Any], message: str, tiny_model: GPT
) -> None:
    optimizer = make_optimizer(tiny_model)
    update(tiny_model, optimizer)
    state = copy.deepcopy(optimizer.state_dict())
    load_optimizer_state(optimizer, copy.deepcopy(state))
    damage(state)

    with pytest.raises(CheckpointError, match=message):
        load_optimizer_state(optimizer, state)


def test_the_state_of_an_optimizer_without_updates_can_be_loaded(tiny_model: GPT) -> None:
    state = make_optimizer(tiny_model).state_dict()
    fresh = make_optimizer(tiny_model)

    load_optimizer_state(fresh, state)

    assert not fresh.state
    update(tiny_model, fresh)


@pytest.mark.parametrize("count", [1, 3])
def test_states_of_another_number_of_optimizers_are_refused(tiny_model: GPT, count: int) -> None:
    parts = [make_optimizer(tiny_model) for _ in range(2)]
    optimizer: Any = SimpleNamespace(optimizers=parts)

    saved = copy.deepcopy(parts[0].state_dict())
    saved["param_groups"][0]["lr"] = 0.7
    with pytest.raises(CheckpointError, match="optimizer state is damaged"):
        load_optimizer_state(optimizer, {"optimizers": [saved] * count})
    assert parts[0].param_groups[0]["lr"] != 0.7  # no part has changed


def test_no_optimizer_changes_if_a_later_ones_state_is_refused(tiny_model: GPT) -> None:
    parts = [make_optimizer(tiny_model) for _ in range(2)]
    optimizer: Any = SimpleNamespace(optimizers=parts)
    saved = [copy.deepcopy(part.state_dict()) for part in parts]
    saved[0]["param_groups"][0]["lr"] = 0.7
    saved[1]["param_groups"].pop()

    with pytest.raises(CheckpointError, match="saved for another model"):
        load_optimizer_state(optimizer, {"optimizers": saved})
    assert parts[0].param_groups[0]["lr"] != 0.7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layer": 1}, r"groups of \[6, 3\] tensors, this model's has \[10, 5\]: it was saved for another model"),
        ({"bias": True}, r"groups of \[10, 18\] tensors, this model's has \[10, 5\]"),
        ({"n_embd": 16}, r"holds exp_avg of shape \(17, 16\) for a tensor of shape \(17, 32\)"),
    ],
)
def test_another_models_state_is_refused(tiny_model: GPT, changes: dict[str, Any], message: str) -> None:
    other = GPT(replace(tiny_model.config, **changes))
    state = make_optimizer(other)
    update(other, state)
    optimizer = make_optimizer(tiny_model)
    update(tiny_model, optimizer)
    before = copy.deepcopy(optimizer.state_dict())

    with pytest.raises(CheckpointError, match=message):
        load_optimizer_state(optimizer, state.state_dict())

    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for key, moments in before["state"].items():
        assert all(torch.equal(after["state"][key][name], value) for name, value in moments.items())


def test_loading_a_state_does_not_change_the_kernel() -> None:
    """A run saved on a CPU may resume on a GPU, where AdamW is fused, and the other way round."""
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    plain = torch.optim.AdamW([parameter], weight_decay=0.5)
    plain.step()
    fused = torch.optim.AdamW([parameter], fused=True)

    load_optimizer_state(fused, plain.state_dict())

    assert (fused.param_groups[0]["fused"], fused.param_groups[0]["weight_decay"]) == (True, 0.5)
    fused.found_inf = torch.tensor(1.0)  # type: ignore[attr-defined]
    before = parameter.detach().clone()
    fused.step()
    assert torch.equal(parameter, before)


def test_loading_a_state_restores_or_removes_a_groups_lr_factor(tiny_model: GPT) -> None:
    optimizer = make_optimizer(tiny_model)
    before = copy.deepcopy(optimizer.state_dict())
    optimizer.param_groups[1]["lr_factor"] = 0.25

    restored = make_optimizer(copy.deepcopy(tiny_model))
    load_optimizer_state(restored, copy.deepcopy(optimizer.state_dict()))
    load_optimizer_state(optimizer, before)

    assert [group.get("lr_factor") for group in restored.param_groups] == [None, 0.25]
    assert [group.get("lr_factor") for group in optimizer.param_groups] == [None, None]


def test_loading_a_state_keeps_the_marks_of_head_groups(tiny_model: GPT) -> None:
    """A schedule that is chosen at the resume needs the mark, which the saved groups lack."""
    state = make_optimizer(tiny_model).state_dict()
    optimizer = make_optimizer(tiny_model)
    optimizer.param_groups[0]["is_head"] = True

    load_optimizer_state(optimizer, state)

    assert [group.get("is_head") for group in optimizer.param_groups] == [True, None]


def unfrozen_later(mark: dict[str, bool]) -> tuple[torch.optim.AdamW, list[torch.nn.Parameter], dict[str, Any]]:
    """Return an optimizer whose second parameter was added after one update, the parameters, and the state before."""
    parameters = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    optimizer = torch.optim.AdamW(parameters[:1], lr=LR)
    for count in (1, 2):
        for parameter in parameters[:count]:
            parameter.grad = torch.ones(3)
        optimizer.step()
        if count == 1:
            before = copy.deepcopy(optimizer.state_dict())
            optimizer.add_param_group({"params": parameters[1:], **mark})
    return optimizer, parameters, before


def test_loading_a_state_from_before_an_unfreezing_undoes_it() -> None:
    optimizer, parameters, before = unfrozen_later({"unfrozen": True})

    load_optimizer_state(optimizer, copy.deepcopy(before))

    assert [parameter.requires_grad for parameter in parameters] == [True, False]
    assert parameters[1].grad is None and list(optimizer.state) == parameters[:1]
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert after["state"][0]["step"] == 1
    assert torch.equal(after["state"][0]["exp_avg"], before["state"][0]["exp_avg"])


@pytest.mark.parametrize("mark", [{}, {"unfrozen": False}])
def test_other_groups_are_never_dropped(mark: dict[str, bool]) -> None:
    optimizer, parameters, before = unfrozen_later(mark)

    with pytest.raises(CheckpointError, match=r"groups of \[1\] tensors, this model's has \[1, 1\]"):
        load_optimizer_state(optimizer, before)

    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 1]
    assert all(parameter.requires_grad for parameter in parameters)


def test_an_unfreezing_is_not_undone_if_the_state_does_not_fit() -> None:
    optimizer, parameters, before = unfrozen_later({"unfrozen": True})
    before["state"][0]["exp_avg"] = torch.ones(5, 5)[0, :2]

    with pytest.raises(CheckpointError, match=r"exp_avg of shape \(2,\)"):
        load_optimizer_state(optimizer, before)

    assert parameters[1].requires_grad and len(optimizer.param_groups) == len(optimizer.state) == 2


def updated(model: GPT, optimizer: torch.optim.Optimizer, count: int) -> None:
    ids = torch.arange(16).reshape(2, 8)
    for _ in range(count):
        optimizer.zero_grad()
        model(ids, ids)[1].backward()
        optimizer.step()


def test_adafactor_is_torchs_and_keeps_a_row_and_a_column(tiny_model: GPT) -> None:
    optimizer = make_adafactor(tiny_model, weight_decay=0.1, learning_rate=1e-2)
    updated(tiny_model, optimizer, 2)

    assert type(optimizer) is torch.optim.Adafactor
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert all(p.dim() >= 2 for p in optimizer.param_groups[0]["params"])
    weight = tiny_model.transformer.h[0].mlp.c_fc.weight
    assert {"row_var", "col_var"} < optimizer.state[weight].keys()


def test_adafactor_goes_on_as_if_uninterrupted(tiny_model: GPT) -> None:
    """Also with positions that are cropped on the way."""
    optimizer = make_adafactor(tiny_model, 0.1, 1e-2)
    updated(tiny_model, optimizer, 2)
    other = copy.deepcopy(tiny_model)
    again = make_adafactor(other, 0.1, 1e-2)
    load_optimizer_state(again, copy.deepcopy(optimizer.state_dict()))
    updated(tiny_model, optimizer, 2)
    updated(other, again, 2)
    assert_same(tiny_model.state_dict(), other.state_dict())

    other.crop_block_size(other.config.block_size // 2)
    cropped = make_adafactor(other, 0.1, 1e-2)
    load_optimizer_state(cropped, again.state_dict())
    positions = other.transformer.wpe.weight
    assert cropped.state[positions]["row_var"].shape == (len(positions), 1)
