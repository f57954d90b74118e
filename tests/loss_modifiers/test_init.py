"""The public names of loss_modifiers."""

import importlib
import pkgutil

import loss_modifiers
from loss_modifiers import LossModifier


def test_every_modifier_is_offered_and_has_a_file_of_its_own() -> None:
    homes: dict[type, str] = {}
    for module in pkgutil.iter_modules(loss_modifiers.__path__):
        content = vars(importlib.import_module(f"loss_modifiers.{module.name}"))
        mine = [x for x in content.values() if isinstance(x, type) and x.__module__ == f"loss_modifiers.{module.name}"]
        modifiers = [x for x in mine if issubclass(x, LossModifier) and x is not LossModifier]
        assert len(modifiers) <= 1, module.name
        homes |= dict.fromkeys(modifiers, module.name)

    assert len(homes) > 10 and {modifier.__name__ for modifier in homes} <= set(loss_modifiers.__all__)
    assert all(hasattr(loss_modifiers, name) for name in loss_modifiers.__all__)
