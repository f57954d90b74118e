"""Declaration of options: one line gives the name, type, default, bounds, section and meaning."""

import ast
import json
import os
import re
import reprlib
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from core.errors import ConfigError
from core.files import write_bytes_atomically

Alias = tuple[str, Mapping[Any, Any] | None]  # the option, and its value for each foreign value if they differ
LARGEST = (1e308, 3e38)  # whole numbers above are no float of Python, floats above are none of torch
PATH_BYTES, NAME_BYTES = 4000, 255  # what file systems take, with room for the names of our files
HELP_COLUMNS = 100
AUTO = "auto"  # shown for a default that depends on the machine
DEFAULTS = "defaults"  # heading in a saved file: options that the user did not set
SchemaT = TypeVar("SchemaT", bound="Schema")


class Base(NamedTuple):
    """How a config file is recognised that needs a base file in front of it.

    line:  whose config files these are
    own:   names that only these files set; one is enough, together with another one of `own` or `usual`
    usual: names that most of these files set
    lacks: names that none of these files sets, because the base file does
    """

    line: str
    own: frozenset[str]
    usual: frozenset[str]
    lacks: frozenset[str]

    def matches(self, assigned: set[str], set_anywhere: set[str]) -> bool:
        """Return whether a file that assigns these names needs the base. set_anywhere: options that any file sets"""
        return bool(assigned & self.own) and len(assigned & (self.own | self.usual)) > 1 and not self.lacks & set_anywhere


def section(name: str) -> Callable[..., Any]:
    """Return the function that declares the options of one section: `opt(default, meaning, **bounds)`.

    text: what a text is: a `name`; a `path`, in which ~ and $NAME are expanded; or `prose`, any characters
    """

    def opt(default: Any, meaning: str, **bounds: Any) -> Any:
        given = {"default_factory": default} if callable(default) else {"default": default}
        if isinstance(default, float):
            bounds = {"allow_inf_nan": False, **bounds}
        extra = {"section": name, "text": bounds.pop("text", "name")}
        return Field(description=meaning, json_schema_extra=extra, **given, **bounds)

    return opt


def literal(text: str) -> Any:
    """Return the value of a Python or JSON literal; any other text is returned as it is."""
    for read in (ast.literal_eval, json.loads):
        try:
            return read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return text


class Schema(BaseModel):
    """Base class of a flat set of options. Instances are immutable; unknown names raise an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    def model_post_init(self, context: Any) -> None:
        """Record in `model_fields_set` what `validated` was told that the user set."""
        if context is not None:
            object.__setattr__(self, "__pydantic_fields_set__", set(context))

    USAGE: ClassVar[str] = ""  # how the program is started, with examples, above the options in help
    ALIASES: ClassVar[Mapping[str, Alias]] = {}  # other trainers' names and dotted paths
    NOT_SUPPORTED: ClassVar[Mapping[str, str]] = {}  # other trainers' switches: the missing feature
    WITHOUT_EFFECT: ClassVar[Mapping[str, str]] = {}  # other trainers' options that are accepted and ignored: why
    ELSEWHERE: ClassVar[Mapping[str, str]] = {}  # options of another program of ours, accepted and ignored: the program
    BASES: ClassVar[Mapping[str, Base]] = {}  # base file: how files that need it in front of them are recognised
    UNLISTED: ClassVar[frozenset[str]] = frozenset()  # options that help leaves out: a fork's model.py lacks them
    FROM_MODEL: ClassVar[frozenset[str]] = frozenset()  # options that the config class of a fork's model.py declares
    NO_OPTION: ClassVar[frozenset[str]] = frozenset()  # fields of that class whose type no command line can give
    READS_OTHERS: ClassVar[bool] = False  # its mappings may be files of other systems, see `config.foreign_systems`
    NOT_YET: ClassVar[Collection[str]] = ()  # options whose part does not exist yet: refused unless at their default
    NEAR_CONFIG: ClassVar[Collection[str]] = ()  # paths that a config file may give by the place next to itself
    SPELLINGS: ClassVar[Mapping[str, Mapping[str, str]]] = {}  # option -> other trainers' values -> our values

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the default of every option; defaults that depend on the machine are computed now."""
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
    def text_kind(cls, name: str) -> str:
        """Return what the text of an option is: a name, a path or prose."""
        field = cls.model_fields.get(name)
        extra = field.json_schema_extra if field else None
        return str(extra.get("text", "name")) if isinstance(extra, dict) else "name"

    @classmethod
    def fit(cls, name: str, value: Any) -> Any:
        """Return `value` converted to the option's type. Raises ValueError with the text of `wanted`."""
        field = cls.model_fields[name]
        if field.default_factory and value == AUTO:
            return field.get_default(call_default_factory=True)
        kinds = set(members(field.annotation))
        choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
        takes_text = str in kinds or any(isinstance(choice, str) for choice in choices)
        if isinstance(value, str) and list[str] in kinds and isinstance(literal(value), list):
            value = literal(value)
        if isinstance(value, str):
            value = cls.SPELLINGS.get(name, {}).get(value, value)
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        elif callable(getattr(value, "item", None)) and not getattr(value, "ndim", 0):  # a NumPy or torch scalar
            value = value.item()
        if isinstance(value, str) and takes_text:
            value = checked_text(value, cls.text_kind(name))
        numbers = kinds & {bool, int, float}  # a fork's field may take a text or a number
        if (isinstance(value, str) and (not takes_text or (value == "None" and type(None) in kinds))) or (isinstance(value, str) and type(literal(value)) in numbers):
            value = literal(value)
        elif takes_text and not numbers and isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        if bool in kinds and type(value) is int and value in (0, 1):
            value = bool(value)
        if int in kinds and isinstance(value, float) and value.is_integer():
            value = int(value)  # max_iters = 1e5
        if isinstance(value, int | float) and abs(value) > (largest := LARGEST[isinstance(value, float)]):
            raise ValueError(f"{wanted(field)}, at most {largest:g}")
        containers = {get_origin(kind) or kind for kind in kinds} & {list, tuple}
        if isinstance(value, list | tuple) and len(containers) == 1:
            value = containers.pop()(value)  # YAML and JSON have no tuples
        try:
            return adapter(field).validate_python(value, strict=True)
        except ValidationError:
            incomplete = isinstance(value, str) and value.startswith(("[", "{")) and not takes_text
            hint = " (not a complete Python or JSON literal; put quotes around it in a shell)" if incomplete else ""
            if isinstance(value, str) and not value and takes_text:
                hint = " (is a variable of the shell not set?)"
            raise ValueError(wanted(field) + hint) from None

    @classmethod
    def validated(cls: type[SchemaT], values: Mapping[str, Any], set_by_user: Iterable[str] = ()) -> SchemaT:
        """Return an instance after checking the rules between options. Raises ValueError, one line per error.

        set_by_user: the options whose values are the user's own; `model_fields_set` of the instance
        """
        try:
            return cls.model_validate({name: values[name] for name in cls.model_fields}, context=list(set_by_user))
        except ValidationError as error:
            reasons = [cls._reason(detail) for detail in error.errors()]
            raise ValueError("\n".join(str(reason) for reason in reasons)) from None

    @classmethod
    def _reason(cls, detail: Any) -> str:
        """Return the line of one of pydantic's errors: of a rule between options, or of one option."""
        if not detail["loc"]:
            return str(detail.get("ctx", {}).get("error", detail["msg"]))
        name = str(detail["loc"][0])
        return f"{name}: got {reprlib.repr(detail['input'])}, wanted {wanted(cls.model_fields[name])}"

    @classmethod
    def help(cls, only: Sequence[str] = ()) -> str:
        """Return the `--help` text: default, accepted values and meaning by section. only: the sections to show."""
        lines = []
        for heading, names in cls.sections().items():
            if only and heading not in only:
                continue
            lines.append(f"\n{heading}:")
            for name in [name for name in names if name not in cls.UNLISTED]:
                field = cls.model_fields[name]
                lines += _wrapped(f"--{name}={default_text(field)}  [{wanted(field)}]", 2)
                lines += _wrapped(str(field.description), 6)
        return "\n".join(lines).strip()

    def pick(self, *names: str) -> dict[str, Any]:
        """Return the named options as keyword arguments."""
        return {name: getattr(self, name) for name in names}

    def replace(self, **values: Any) -> Self:
        """Return the options with other values, converted and checked, which count as set by the user.

        Raises ConfigError for a wrong name or value.
        """
        return self._with(values, {*self.model_fields_set, *values})

    def derive(self, **values: Any) -> Self:
        """Return the options with values that follow from others: checked, and no more set by the user than before."""
        return self._with(values, self.model_fields_set)

    def _with(self, values: Mapping[str, Any], set_by_user: Iterable[str]) -> Self:
        fitted = self.model_dump()
        errors = []
        for name, value in sorted(values.items()):
            try:
                fitted[name] = self.fit(name, value)
            except LookupError:
                errors.append(f"{name}: no such option")
            except ValueError as error:
                errors.append(f"{name}: got {reprlib.repr(value)}, wanted {error}")
        try:
            if errors:
                raise ValueError("\n".join(errors))
            return self.validated(fitted, set_by_user)
        except ValueError as error:
            raise ConfigError(str(error)) from None

    def changed(self, *names: str) -> dict[str, Any]:
        """Return the named options whose value is not the default."""
        return {name: value for name, value in self.pick(*names).items() if value != type(self).defaults()[name]}

    def table(self, origins: Mapping[str, str]) -> str:
        """Return a runnable config file with every option's value, and its origin as a comment."""
        lines = []
        for heading, names in self.sections().items():
            lines.append(f"\n# {heading}")
            lines += [f"{name} = {getattr(self, name)!r}  # {origins.get(name, 'default')}" for name in names]
        return "\n".join(lines).strip()

    def save(self, path: str | Path, heading: str = "") -> None:
        """Write all options to a YAML file, which loads back to equal options; an old file is replaced in one step.

        heading: the first line, a comment

        Options that the user did not set stand under `defaults`. Of a fork's GPTConfig a field may have a value that
        YAML cannot hold: it is named in a comment.
        """
        write_bytes_atomically(Path(path), self.as_yaml(heading).encode())

    def as_yaml(self, heading: str = "") -> str:
        """Return the text that `save` writes."""
        import yaml

        # written in C, if PyYAML has them: ten times as fast
        loader, dumper = getattr(yaml, "CSafeLoader", yaml.SafeLoader), getattr(yaml, "CSafeDumper", yaml.SafeDumper)

        def dump(values: dict[str, Any]) -> str:
            return str(yaml.dump(values, Dumper=dumper, sort_keys=False, default_flow_style=False, allow_unicode=True))

        def read_back(values: dict[str, Any]) -> dict[str, Any]:
            return dict(yaml.load(dump(values), loader))

        def is_lost(name: str) -> bool:
            try:
                return bool(self.fit(name, read_back({name: values[name]})[name]) != values[name])
            except (yaml.YAMLError, ValueError, RecursionError):
                return True

        values = self.pick(*type(self).model_fields)
        try:
            changed = {name for name, value in read_back(values).items() if not _is_same(value, values[name])}
        except (yaml.YAMLError, ValueError, RecursionError):
            changed = set(values)
        lost = {name for name in changed if is_lost(name)}
        given = {name: value for name, value in values.items() if name in self.model_fields_set - lost}
        others = {name: value for name, value in values.items() if name not in given.keys() | lost}
        lines = [f"# {name}: YAML has no such value: {' '.join(repr(values[name]).split())}\n" for name in sorted(lost)]
        blocks = [f"{heading}\n" if heading else "", dump(given) if given else "", *lines]
        blocks += ["\n", dump({DEFAULTS: others})] if others else []
        return "".join(blocks)


def _is_same(read: Any, value: Any) -> bool:
    """Return whether a value is read as it was written, and by an option of any type taken as it is read."""
    return type(read) is type(value) and bool(read == value) and not (isinstance(value, str) and literal(value) != value)


def _wrapped(text: str, indent: int) -> list[str]:
    """Return the lines of a text in help; two spaces in a row stay where a line is long enough for them."""
    return textwrap.wrap(
        text,
        HELP_COLUMNS,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 4 if indent == 2 else indent),
        break_on_hyphens=False,
    )


def checked_text(text: str, kind: str) -> str:
    """Return a text, with ~ and $NAME expanded if it is a path. Raises ValueError with what was wanted."""
    if kind == "prose":
        return text
    text = text.removesuffix("\r")  # of a shell script with Windows line ends
    if not text.isprintable():
        raise ValueError("a text without control characters (write a path as r'C:\\...' or with /)")
    if kind == "path":
        text = os.path.expandvars(os.path.expanduser(text))
        if text.startswith("~"):
            raise ValueError(f"a path, and there is no user {text.split('/')[0]} (write ./{text} if it is a name)")
        if re.match(r"[a-z]\w+://", text):
            raise ValueError("a path on this machine, no URL")
        if unset := re.search(r"\$(\w+|\{\w+\})", text):
            raise ValueError(f"a path whose variables are set; {unset[0]} is not")
        if len(text) > PATH_BYTES or any(len(os.fsencode(name)) > NAME_BYTES for name in text.split("/")):
            raise ValueError(f"a path of at most {PATH_BYTES} bytes, with names of at most {NAME_BYTES}")
    return text if text.strip() else ""


def adapter(field: FieldInfo) -> TypeAdapter[Any]:
    """Return the pydantic validator of an option's type and bounds."""
    return TypeAdapter(Annotated[field.annotation, field])  # type: ignore[arg-type]


def wanted(field: FieldInfo) -> str:
    """Return the accepted values of an option, for help and errors: `int >= 1`, `'a' or 'b'`."""
    names = [_type_name(kind) for kind in members(field.annotation)]
    if any(getattr(rule, "max_length", None) == 1 for rule in field.metadata):
        names = [name.replace("str", "one character") for name in names]
    elif any(getattr(rule, "min_length", None) == 1 for rule in field.metadata):
        names = [name.replace("str", "str that is not empty") for name in names]
    kind = "number" if names == ["int", "float"] else " or ".join(names)
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [f"{signs[key]} {getattr(rule, key)}" for rule in field.metadata for key in signs if hasattr(rule, key)]
    return f"{kind} {' and '.join(bounds)}".strip()


def members(annotation: Any) -> tuple[Any, ...]:
    """Return the types of a union; of another type, that type."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _type_name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(repr(choice) for choice in get_args(kind))
    if get_origin(kind) is list:
        inner = get_args(kind)[0]
        return "list" if inner is Any else f"list of {_type_name(inner)}s"
    if kind in (None, type(None), Any):
        return "any value" if kind is Any else "None"
    return str((get_origin(kind) or kind).__name__)


def default_text(field: FieldInfo) -> str:
    """Return an option's default as text; `auto` if it depends on the machine."""
    if field.default_factory:
        return AUTO
    return repr(field.default)[1:-1] if isinstance(field.default, str) else str(field.default)  # "\n" stays one line
