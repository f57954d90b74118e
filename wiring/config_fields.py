"""The fields of a model's config class, and the types that they have as options."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

REQUIRED: Any = inspect.Parameter.empty  # the default of a field without one
SCALARS = (bool, int, float, str, NoneType)
CONTAINERS = (list, tuple, dict)


class ConfigField(NamedTuple):
    """A field of a config class.

    kind:    the type of its values; None if no command line can give them, such as a torch.dtype
    default: REQUIRED if it has none
    """

    kind: Any
    default: Any

    def takes(self, value: Any) -> bool:
        """Return whether a value has the type of the field, or one that is converted to it without loss."""
        try:
            TypeAdapter(self.kind).validate_python(value)
        except ValidationError:
            return False
        return self.kind is not None


def config_fields(config_class: Any) -> dict[str, ConfigField]:
    """Return the fields of a config class: the arguments of its constructor, as in a dataclass.

    If it takes any further argument (`**kwargs`), its class attributes are fields, too.
    """
    parameters = inspect.signature(config_class).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items() if not _is_rest(parameter)}
    if takes_any(config_class):
        attributes = {name: value for name, value in vars(config_class).items() if not name.startswith("_")}
        defaults = {name: value for name, value in attributes.items() if is_plain(value)} | defaults
    defaults |= _made_defaults(config_class)
    hints = _hints(config_class)
    return {name: ConfigField(_kind(hints.get(name), default), default) for name, default in defaults.items()}


def takes_any(config_class: Any) -> bool:
    """Return whether a config class takes arguments that it does not list."""
    parameters = inspect.signature(config_class).parameters.values()
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)


def is_plain(value: Any) -> bool:
    """Return whether a value consists of numbers, texts and None, also in lists, tuples and dicts."""
    if type(value) in (list, tuple):
        return all(map(is_plain, value))
    if type(value) is dict:
        return all(map(is_plain, [*value, *value.values()]))
    return type(value) in SCALARS


def _is_rest(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def _made_defaults(config_class: Any) -> dict[str, Any]:
    """Return what the default factories of a dataclass make."""
    if not dataclasses.is_dataclass(config_class):
        return {}
    factories: dict[str, Callable[[], Any] | Any] = {
        field.name: field.default_factory for field in dataclasses.fields(config_class) if field.init
    }
    return {name: make() for name, make in factories.items() if make is not dataclasses.MISSING}


def _hints(config_class: Any) -> dict[str, Any]:
    """Return the annotations of a class and of its constructor; without those that cannot be evaluated at run time."""
    described = [*reversed(inspect.getmro(config_class)), config_class.__init__]
    hints = {}
    for name, hint in [item for one in described for item in inspect.get_annotations(one).items()]:
        if isinstance(hint, str):
            try:
                hint = eval(hint, vars(sys.modules[config_class.__module__]))
            except Exception:  # it may name what only a type checker imports
                continue
        hints[name] = hint
    return hints


def _kind(hint: Any, default: Any) -> Any:
    """Return the type of an option with this annotation and this default; None if there is none."""
    has_default = default is not REQUIRED
    if hint is None:  # no annotation: the default decides
        hint = Any if not has_default or default is None else type(default)
    if has_default and not is_plain(default):
        return None
    if not _is_plain_type(hint):
        if not has_default or default is None:
            return None
        hint = type(default)
    if has_default and hint is not Any and not _fits(hint, default):  # `n_kv_head: int = None` is common
        hint = hint | type(default)
    return hint


def _fits(hint: Any, value: Any) -> bool:
    try:
        TypeAdapter(hint).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def _is_plain_type(hint: Any) -> bool:
    """Return whether all values of a type are plain."""
    origin = get_origin(hint)
    if origin in (*CONTAINERS, Union, UnionType):
        return all(part is Ellipsis or _is_plain_type(part) for part in get_args(hint))
    return hint is Any or hint in (*SCALARS, *CONTAINERS) or origin is Literal
