"""How an option is declared: one line gives its name, type, default, bounds, section and meaning."""

import ast
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

Alias = tuple[str, Mapping[Any, Any] | None]  # the option meant, and ours for each foreign value where they differ
AUTO = "auto"  # stands for a default that depends on the machine
SchemaT = TypeVar("SchemaT", bound="Schema")


def section(name: str) -> Callable[..., Any]:
    """Return the function that declares the options of one section: `opt(default, meaning, **bounds)`."""

    def opt(default: Any, meaning: str, **bounds: Any) -> Any:
        given = {"default_factory": default} if callable(default) else {"default": default}
        if isinstance(default, float):
            bounds = {"allow_inf_nan": False, **bounds}
        return Field(description=meaning, json_schema_extra={"section": name}, **given, **bounds)

    return opt


def literal(text: str) -> Any:
    """Read a Python or JSON literal; any other text stays text."""
    for read in (ast.literal_eval, json.loads):
        try:
            return read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return text


class Schema(BaseModel):
    """Base of a set of options: flat, immutable once made, unknown names refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ALIASES: ClassVar[Mapping[str, Alias]] = {}  # other systems' names and dotted paths
    NOT_SUPPORTED: ClassVar[Mapping[str, str]] = {}  # other systems' switches: what it is that they would turn on
    WITHOUT_EFFECT: ClassVar[Mapping[str, str]] = {}  # other systems' names that may be given: why they do nothing
    SPELLINGS: ClassVar[Mapping[str, Mapping[str, str]]] = {}  # other systems' values of an option

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return every option's default; one that depends on the machine is worked out now."""
        return {name: field.get_default(call_default_factory=True) for name, field in cls.model_fields.items()}

    @classmethod
    def sections(cls) -> dict[str, list[str]]:
        """Return the option names of each section, in the order of declaration."""
        grouped: dict[str, list[str]] = {}
        for name, field in cls.model_fields.items():
            extra = field.json_schema_extra
            grouped.setdefault(str(extra["section"]) if isinstance(extra, dict) else "other", []).append(name)
        return grouped

    @classmethod
    def fit(cls, name: str, value: Any) -> Any:
        """Return `value` as the option's type; a ValueError says what was wanted."""
        field = cls.model_fields[name]
        if field.default_factory and value == AUTO:
            return field.get_default(call_default_factory=True)
        kinds = {field.annotation, *get_args(field.annotation)}
        takes_text = str in kinds or get_origin(field.annotation) is Literal
        if isinstance(value, str):
            value = cls.SPELLINGS.get(name, {}).get(value, value)
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        elif callable(getattr(value, "item", None)) and not getattr(value, "ndim", 0):  # a NumPy or torch scalar
            value = value.item()
        if isinstance(value, str) and (not takes_text or (value == "None" and type(None) in kinds)):
            value = literal(value)
        elif takes_text and isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        if bool in kinds and type(value) is int and value in (0, 1):
            value = bool(value)
        if int in kinds and isinstance(value, float) and value.is_integer():
            value = int(value)  # max_iters = 1e5
        if isinstance(value, tuple) and {get_origin(kind) for kind in kinds} & {list, tuple} == {list}:
            value = list(value)
        try:
            return adapter(field).validate_python(value, strict=True)
        except ValidationError:
            unread = isinstance(value, str) and value.startswith(("[", "{")) and not takes_text
            hint = " (this is no whole Python or JSON literal; a shell needs quotes around it)" if unread else ""
            raise ValueError(wanted(field) + hint) from None

    @classmethod
    def validated(cls: type[SchemaT], values: Mapping[str, Any]) -> SchemaT:
        """Return an instance, the rules between options checked; a ValueError lists what is wrong, a line each."""
        try:
            return cls(**{name: values[name] for name in cls.model_fields})
        except ValidationError as error:
            reasons = [detail.get("ctx", {}).get("error", detail["msg"]) for detail in error.errors()]
            raise ValueError("\n".join(str(reason) for reason in reasons)) from None

    @classmethod
    def help(cls, only: Sequence[str] = ()) -> str:
        """List the options by section: default, what each takes, meaning. `only` names the sections to show."""
        lines = []
        for heading, names in cls.sections().items():
            if only and heading not in only:
                continue
            lines.append(f"\n{heading}:")
            for name in names:
                field = cls.model_fields[name]
                lines.append(f"  --{name}={default_text(field)}  [{wanted(field)}]\n      {field.description}")
        return "\n".join(lines).strip()

    def pick(self, *names: str) -> dict[str, Any]:
        """Return some of the options as plain keywords."""
        return {name: getattr(self, name) for name in names}

    def changed(self, *names: str) -> dict[str, Any]:
        """Return those of the named options that are not at their default."""
        return {name: value for name, value in self.pick(*names).items() if value != type(self).defaults()[name]}

    def table(self, origins: Mapping[str, str]) -> str:
        """List every option's value and where it came from, as a config file one could run."""
        lines = []
        for heading, names in self.sections().items():
            lines.append(f"\n# {heading}")
            lines += [f"{name} = {getattr(self, name)!r}  # {origins.get(name, 'default')}" for name in names]
        return "\n".join(lines).strip()


def adapter(field: FieldInfo) -> TypeAdapter[Any]:
    """Return what checks a value against an option's type and bounds."""
    return TypeAdapter(Annotated[field.annotation, field])  # type: ignore[arg-type]


def wanted(field: FieldInfo) -> str:
    """Describe what an option takes, for help and errors: `int >= 1`, `'a' or 'b'`."""
    if get_origin(field.annotation) is Literal:
        return " or ".join(repr(choice) for choice in get_args(field.annotation))
    kinds = get_args(field.annotation) or (field.annotation,)
    names = [_name(kind) for kind in kinds if kind is not None]
    if any(getattr(rule, "max_length", None) == 1 for rule in field.metadata):
        names = [name.replace("str", "one character") for name in names]
    kind = "number" if names == ["int", "float"] else " or ".join(names)
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [f"{signs[key]} {getattr(rule, key)}" for rule in field.metadata for key in signs if hasattr(rule, key)]
    return f"{kind} {' and '.join(bounds)}".strip()


def _name(kind: Any) -> str:
    if get_origin(kind) is list:
        return f"list of {_name(get_args(kind)[0])}s"
    return "None" if kind is type(None) else "dict" if get_origin(kind) is dict else str(kind.__name__)


def default_text(field: FieldInfo) -> str:
    """Show an option's default; one that depends on the machine is shown as `auto`."""
    if field.default_factory:
        return AUTO
    return repr(field.default)[1:-1] if isinstance(field.default, str) else str(field.default)  # "\n" stays one line
