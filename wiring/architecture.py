"""The model.py of a run, ours or a fork's: its two classes, and the fields of its config class as options."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pydantic import create_model

from config import spelling
from config.schema import Schema, section
from core import ConfigError, LoadedModel
from core.model_initializer import SHAPE_ARGS
from wiring.config_fields import REQUIRED, ConfigField, config_fields, takes_any

if TYPE_CHECKING:
    from config.options import Options

SchemaT = TypeVar("SchemaT", bound=Schema)

MODEL = f"{__name__.removesuffix('wiring.architecture')}model"  # next to train.py
NANOGPT = (*SHAPE_ARGS, "dropout")  # the arguments that nanoGPT's train.py gives to a GPTConfig
NEEDED = ("block_size", "vocab_size")  # those that every run needs
REPLACED = ("attention_type", "position_encoding", "attention", "activation")  # only our model.py gives these a meaning
# a model.py with all of these is made from ours; `activation` is newer
OURS = {"attention_type", "position_encoding", "attention", "mode", "num_token_classes", "cls_token_id"}


class Architecture(NamedTuple):
    """The classes of a model.py, and the fields of its config class."""

    model_class: Any
    config_class: Any
    fields: dict[str, ConfigField]

    @property
    def is_ours(self) -> bool:
        """Whether model.py is ours, or made from ours."""
        return self.fields.keys() >= OURS

    @property
    def own_fields(self) -> dict[str, ConfigField]:
        """The fields that nanoGPT's model.py lacks, and ours if this one is made from ours."""
        known = {*NANOGPT, *((*OURS, *REPLACED) if self.is_ours else ())}
        return {name: field for name, field in self.fields.items() if name not in known}

    def arguments(self, options: Options) -> dict[str, Any]:
        """Return the values of the own fields that the options give; the others keep the defaults of model.py.

        A field with the name of an option for another part, such as `batch_size`, has the value that the user gave.
        """
        values = {name: getattr(options, name) for name in self.own_fields if name in type(options).model_fields}
        given = {name for name in values if name in options.model_fields_set and self.fields[name].takes(values[name])}
        unset = {name for name in values if values[name] is None and self.fields[name].default is REQUIRED}
        return {name: value for name, value in values.items() if name in options.FROM_MODEL - unset | given}

    def given_arguments(self, options: Options) -> dict[str, Any]:
        """Return the values of the own fields that the user gave."""
        return {name: value for name, value in self.arguments(options).items() if name in options.model_fields_set}

    def accepts(self, name: str) -> bool:
        """Return whether the config class takes an argument of nanoGPT's or ours."""
        return name in self.fields or (name in NANOGPT and takes_any(self.config_class))

    def require_values(self, args: dict[str, Any]) -> None:
        """Raise ConfigError if the arguments of a new model lack a field that has no default."""
        for name, field in self.fields.items():
            if field.default is REQUIRED and name not in args:
                advice = (
                    f"give --{name}=VALUE" if field.kind else "give it one in model.py, no option can have its type"
                )
                raise ConfigError(f"model.py's GPTConfig has no default for {name}: {advice}")

    def as_built(self, loaded: LoadedModel, options: Options) -> LoadedModel:
        """Return a model that `from_pretrained` made, its arguments with the values that the own fields got there.

        Raises ConfigError if the user gave another value.
        """
        config, given = loaded.model.config, self.arguments(options)
        values = {name: getattr(config, name, value) for name, value in given.items()}
        for name in sorted(options.FROM_MODEL & options.model_fields_set):
            if values[name] != given[name]:
                raise ConfigError(
                    f"{name}={given[name]!r}, but from_pretrained in model.py makes {options.init_from} with "
                    f"{values[name]!r}: remove {name}, or start from scratch"
                )
        return loaded._replace(model_args={**loaded.model_args, **values})

    def conflicts(self, options: Options) -> Iterator[str]:
        """Yield a message for every option that this model.py cannot follow; none for ours."""
        if not self.is_ours and options.training_type != "language_model":
            yield (
                f"training_type={options.training_type} needs {', '.join(sorted(OURS))} in GPTConfig; this model.py "
                "lacks some: put coreGPT's model.py back, or remove training_type"
            )
        for name in NANOGPT:
            value, field = getattr(options, name, None), self.fields.get(name)
            if field and field.kind and value is not None and not field.takes(value):
                yield f"{name}={value!r}, but {name} in model.py's GPTConfig has another type: rename the field there"
        names = [
            name for name in (*NANOGPT, *REPLACED) if name in type(options).model_fields and not self.accepts(name)
        ]
        for name, value in options.changed(*names).items():
            edits, near = spelling.nearest(name, self.own_fields)
            advice = f"give {near[0]}" if edits <= 2 else f"remove {name}"
            if value != "causal":
                yield f"{name}={value!r} sets nothing: model.py's GPTConfig has no field {name}; {advice}"

    def notes(self, options: Options) -> Iterator[str]:
        """Yield a line for every field that keeps another value than the option of its name has."""
        names = self.own_fields.keys() & type(options).model_fields.keys() - self.arguments(options).keys()
        for name in sorted(names):
            if (default := self.fields[name].default) is not REQUIRED and default != getattr(options, name):
                other = f"the option {name}={getattr(options, name)!r} is for other parts of the program"
                yield f"model.py: GPTConfig.{name} stays {default!r}; {other}"


def load_architecture() -> Architecture:
    """Return the classes of model.py. Raises ConfigError if it cannot be imported or lacks what a run needs."""
    module = _import_model()
    if lacking := [name for name in ("GPT", "GPTConfig") if not isinstance(getattr(module, name, None), type)]:
        raise ConfigError(
            f"{module.__file__} defines no class {' and no class '.join(lacking)}: wanted both, as in nanoGPT; put "
            "such a file or coreGPT's in its place"
        )
    model_class, config_class = module.GPT, module.GPTConfig
    try:
        fields = config_fields(config_class)
    except Exception as error:  # a default factory is the user's code
        cause = f"{type(error).__name__}: {error}"
        raise ConfigError(f"the fields of model.py's GPTConfig cannot be read: {cause}; mend it") from None
    found = Architecture(model_class, config_class, fields)
    if lacking := [name for name in NEEDED if not found.accepts(name)]:
        raise ConfigError(
            f"model.py's GPTConfig takes no {' and no '.join(lacking)}, which every run sets: name them as in nanoGPT"
        )
    return found


def with_model_fields(schema: type[SchemaT]) -> type[SchemaT]:
    """Return the options of train.py with the own fields of model.py as further options; help lists those it takes.

    A field is no option if its type cannot be written on a command line, or an option for another part has its name.
    """
    new, architecture = _new_options(schema), load_architecture()
    unknown = {name for name in (*NANOGPT, *REPLACED) if name in schema.model_fields and not architecture.accepts(name)}
    untyped = {name for name, field in architecture.own_fields.items() if not field.kind} - schema.model_fields.keys()
    if not new and not unknown and not untyped:
        return schema
    opt = section("model")
    declared: dict[str, Any] = {}
    for name, field in new.items():
        is_needed = field.default is REQUIRED
        meaning = "field of GPTConfig in model.py" + ("; a new model needs it" if is_needed else "")
        default, kind = (None, field.kind | None) if is_needed else (field.default, field.kind)
        declared[name] = (kind, opt(default, meaning))
    extended = create_model(schema.__name__, __base__=schema, **declared)
    extended.FROM_MODEL, extended.UNLISTED, extended.NO_OPTION = map(frozenset, (new, unknown, untyped))
    for table in ("ALIASES", "NOT_SUPPORTED", "WITHOUT_EFFECT", "SPELLINGS"):  # the fork's meaning of a name holds
        setattr(extended, table, {name: entry for name, entry in getattr(schema, table).items() if name not in new})
    return extended


def knowing_model_fields(schema: type[SchemaT]) -> type[SchemaT]:
    """Return the options of sample.py; the own fields of model.py are known there as options of train.py."""
    new = _new_options(schema)
    if not new:
        return schema
    extended = create_model(schema.__name__, __base__=schema)
    extended.ELSEWHERE = {**schema.ELSEWHERE, **dict.fromkeys(new, "train.py")}
    return extended


def _new_options(schema: type[Schema]) -> dict[str, ConfigField]:
    taken = {*dir(schema), *schema.model_fields} - set(REPLACED)
    own = load_architecture().own_fields.items()
    return {name: field for name, field in own if field.kind and name not in taken and name[:1] != "_"}


def _import_model() -> ModuleType:
    cause: BaseException
    advice = "put coreGPT's model.py in its place"
    try:
        return importlib.import_module(MODEL)
    except ModuleNotFoundError as error:
        if error.name == MODEL:
            raise ConfigError("there is no model.py next to train.py: put coreGPT's or your fork's there") from None
        cause, advice = error, f"copy the fork's {error.name}.py next to model.py, install {error.name}, or {advice}"
    except (Exception, SystemExit) as error:
        cause, advice = error, f"mend it, or {advice}"
    text = cause.msg if isinstance(cause, SyntaxError) else cause
    where = f"{cause.filename}:{cause.lineno}" if isinstance(cause, SyntaxError) else _place_in_model(cause)
    raise ConfigError(f"{where}: importing it fails with {type(cause).__name__}: {text}; {advice}") from None


def _place_in_model(error: BaseException) -> str:
    """Return the line of model.py in which an error came up, and before it that of the fork's own module it imports."""
    frames = traceback.extract_tb(error.__traceback__)
    names = [Path(frame.filename).name for frame in frames]
    if "model.py" not in names:
        return "model.py"
    first = names.index("model.py")
    own = [frame for frame in frames[first:] if Path(frame.filename).parent == Path(frames[first].filename).parent]
    line = f"model.py:{[frame for frame in own if Path(frame.filename).name == 'model.py'][-1].lineno}"
    inner = Path(own[-1].filename).name
    return line if inner == "model.py" else f"{inner}:{own[-1].lineno}, imported by {line}"
