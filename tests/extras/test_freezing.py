"""Freezing of parameters, and the optimizer groups of unfrozen parameters and of heads."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from core.errors import ConfigError
from core.optimizer import load_optimizer_state
from extras.freezing import (
    extend_optimizer,
    freeze_transformer,
    is_frozen,
    mark_heads,
    train_only,
    unfreeze_transformer,
)
from model import GPT

BETAS = (0.8, 0.9)


@pytest.fixture
def classifier(tiny_model: GPT) -> GPT:
    """Return a model whose head shares no parameter with its transformer."""
    return GPT(replace(tiny_model.config, mode="token_classifier", num_token_classes=3))


def training(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def names_of(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[list[str]]:
    """Return the names of the parameters in each group."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [[names[parameter] for parameter in group["params"]] for group in optimizer.param_groups]


def update(model: GPT, optimizer: torch.optim.Optimizer, seed: int = 5) -> None:
    """Make an update on tokens drawn from the seed."""
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(17, (2, 16), generator=draw)
    loss = model(tokens, tokens % model.lm_head.out_features)[1]
    assert loss is not None
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


# which parameters train


def test_a_frozen_transformer_costs_no_weight_gradients(classifier: GPT) -> None:
    freeze_transformer(classifier)
    assert training(classifier) == ["lm_head.weight"] and is_frozen(classifier)

    tokens = torch.randint(17, (2, 16))
    loss = classifier(tokens, tokens % 3)[1]
    assert loss is not None
    loss.backward()

    assert [name for name, p in classifier.named_parameters() if p.grad is not None] == ["lm_head.weight"]


def test_after_unfreezing_everything_trains(classifier: GPT) -> None:
    everything = training(classifier)
    freeze_transformer(classifier)
    unfreeze_transformer(classifier)

    assert training(classifier) == everything and not is_frozen(classifier)


def test_a_matrix_shared_with_the_head_continues_to_train(tiny_model: GPT) -> None:
    freeze_transformer(tiny_model)

    assert training(tiny_model) == ["transformer.wte.weight"]
    assert is_frozen(tiny_model)


def test_the_cls_embedding_is_not_part_of_the_transformer(tiny_model: GPT) -> None:
    scorer = GPT(replace(tiny_model.config, mode="sequence_scorer", cls_token_id=0))
    freeze_transformer(scorer)

    heads = ["cls_embedding", "sequence_head.slope", "sequence_head.offset", "sequence_head.linear.weight"]
    assert training(scorer) == heads


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("ln_f.*", ["transformer.ln_f.weight"]),
        ("transformer.ln_f.weight", ["transformer.ln_f.weight"]),
        ("ln_f , w?e", ["transformer.wte.weight", "transformer.wpe.weight", "transformer.ln_f.weight"]),
        ("h.[1-9].ln_*", ["transformer.h.1.ln_1.weight", "transformer.h.1.ln_2.weight"]),
        ("h.*.mlp", [f"transformer.h.{n}.mlp.{part}.weight" for n in (0, 1) for part in ("c_fc", "c_proj")]),
        ("lm_head", []),
        ("", []),
    ],
)
def test_patterns_choose_the_parameters_that_train(classifier: GPT, patterns: str, expected: list[str]) -> None:
    train_only(classifier, patterns)

    assert training(classifier) == [*expected, "lm_head.weight"]
    assert is_frozen(classifier)


def test_a_pattern_can_unfreeze_everything(classifier: GPT) -> None:
    freeze_transformer(classifier)
    train_only(classifier, "*")

    assert not is_frozen(classifier)


@pytest.mark.parametrize("pattern", ["h.[8-9].*", "H.0", "transformer.h.1.ln", "ln_f.weight.*"])
def test_a_pattern_that_matches_nothing_is_refused_and_freezes_nothing(classifier: GPT, pattern: str) -> None:
    with pytest.raises(ConfigError) as error:
        train_only(classifier, f"wte,{pattern}")

    message = str(error.value)
    assert message.startswith(f"trainable pattern {pattern!r} matches no parameter")
    assert "match some of this model's 16 names, such as wte.weight, wpe.weight, h.0.ln_1.weight" in message
    assert not is_frozen(classifier)


@pytest.mark.parametrize("act", [freeze_transformer, unfreeze_transformer, is_frozen])
def test_a_model_without_a_transformer_is_refused(act: object) -> None:
    with pytest.raises(ConfigError, match=r"only a model's `transformer\.\*` can be frozen, and this model has none"):
        act(nn.Linear(2, 2))  # type: ignore[operator]


# the optimizer


def test_unfrozen_parameters_join_the_optimizer_in_two_groups(tiny_model: GPT) -> None:
    classifier = GPT(replace(tiny_model.config, mode="token_classifier", bias=True))
    freeze_transformer(classifier)
    optimizer = classifier.configure_optimizers(0.1, 1e-2, BETAS, "cpu")
    optimizer.param_groups[0] |= {"eps": 1e-5, "lr_factor": 0.5, "is_head": True, "lr": 7.0}
    assert extend_optimizer(optimizer, classifier, 0.3) == 0
    unfreeze_transformer(classifier)

    body = [(name, p) for name, p in classifier.named_parameters() if name.startswith("transformer.")]
    assert extend_optimizer(optimizer, classifier, 0.3) == len(body)

    matrices, vectors = ([name for name, p in body if (p.dim() >= 2) == is_matrix] for is_matrix in (True, False))
    assert names_of(optimizer, classifier) == [["lm_head.weight"], [], matrices, vectors]
    for group, decay in zip(optimizer.param_groups[2:], (0.3, 0.0), strict=True):
        assert (group["weight_decay"], group["betas"], group["eps"], group["lr"]) == (decay, BETAS, 1e-5, 7.0)
        assert "lr_factor" not in group and "is_head" not in group and group["unfrozen"]
    assert extend_optimizer(optimizer, classifier, 0.3) == 0
    assert len(optimizer.param_groups) == 4


def test_empty_groups_are_not_added(classifier: GPT) -> None:
    train_only(classifier, "h,wte,wpe")
    optimizer = classifier.configure_optimizers(0.1, 1e-2, BETAS, "cpu")
    unfreeze_transformer(classifier)

    assert extend_optimizer(optimizer, classifier, 0.1) == 1
    assert names_of(optimizer, classifier)[2:] == [["transformer.ln_f.weight"]]
    assert optimizer.param_groups[2]["weight_decay"] == 0.0


def test_extending_does_not_change_the_updates_of_the_head(classifier: GPT) -> None:
    """Extending changes no moment, and the next update of the head equals that of a frozen run bit for bit."""
    freeze_transformer(classifier)
    optimizer = classifier.configure_optimizers(0.1, 1e-2, BETAS, "cpu")
    for seed in range(3):
        update(classifier, optimizer, seed)
    copied = copy.deepcopy(classifier)
    frozen = copied.configure_optimizers(0.1, 1e-2, BETAS, "cpu")
    load_optimizer_state(frozen, copy.deepcopy(optimizer.state_dict()))
    moments = copy.deepcopy(optimizer.state_dict()["state"])

    unfreeze_transformer(classifier)
    extend_optimizer(optimizer, classifier, 0.1)

    assert optimizer.state_dict()["state"].keys() == moments.keys() == {0}
    assert all(torch.equal(optimizer.state_dict()["state"][0][name], value) for name, value in moments[0].items())
    body = classifier.transformer["ln_f"].weight.detach().clone()
    update(classifier, optimizer)
    update(copied, frozen)
    assert torch.equal(classifier.lm_head.weight, copied.lm_head.weight)
    for name, value in frozen.state[copied.lm_head.weight].items():
        assert torch.equal(optimizer.state[classifier.lm_head.weight][name], value)
    assert not torch.equal(classifier.transformer["ln_f"].weight, body)


def test_heads_get_their_own_groups(tiny_model: GPT) -> None:
    scorer = GPT(replace(tiny_model.config, mode="sequence_scorer", cls_token_id=0))
    optimizer = scorer.configure_optimizers(0.1, 1e-2, BETAS, "cpu")
    all_names = {name for group in names_of(optimizer, scorer) for name in group}

    mark_heads(optimizer, scorer)

    names = names_of(optimizer, scorer)
    assert [group.get("is_head", False) for group in optimizer.param_groups] == [False, True, False, True]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.1, 0.0, 0.0]
    assert names[1] == ["sequence_head.linear.weight"]
    assert names[3] == ["cls_embedding", "sequence_head.slope", "sequence_head.offset"]
    assert all(name.startswith("transformer.") for name in names[0] + names[2])
    assert {name for group in names for name in group} == all_names


def test_only_the_heads_of_a_frozen_model_are_marked(classifier: GPT) -> None:
    freeze_transformer(classifier)
    optimizer = classifier.configure_optimizers(0.1, 1e-2, BETAS, "cpu")
    mark_heads(optimizer, classifier)
    unfreeze_transformer(classifier)
    extend_optimizer(optimizer, classifier, 0.1)

    assert [group.get("is_head", False) for group in optimizer.param_groups] == [True, False, False]
    assert names_of(optimizer, classifier)[0] == ["lm_head.weight"]
