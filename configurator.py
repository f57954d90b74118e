"""
Options from defaults, `config/x.py`, `x.yaml` and `--key=value`, applied left to right; the last value wins.

Two ways to use the same code:

- `configure(schema, argv)` starts from the defaults of a `Schema` (see `config/options.py`) and returns a validated
  instance. It also handles `--help [SECTION]` and `--print_config`.
- `exec(open("configurator.py").read())` overrides the globals of another script, as in nanoGPT's scripts; each value
  must have the type of the global that it replaces.

All errors are collected and reported in one `ConfigError`.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import sys
import traceback
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from core.errors import ConfigError, exit_on_error, is_rank_0

if TYPE_CHECKING:
    from config.schema import Schema

    SchemaT = TypeVar("SchemaT", bound=Schema)

LOCAL_RANK = re.compile(r"--local[-_]rank=\d+")  # added by `python -m torch.distributed.launch`, next to LOCAL_RANK
CONFIG_FILES = (".py", ".yaml", ".yml")
_MODULES = {name: name for name in ("os", "sys", "time", "math", "pickle", "torch")} | {"np": "numpy"}


def configure(schema: type[SchemaT], argv: Sequence[str]) -> SchemaT:
    """Return the options that `argv` sets. Raises one ConfigError that lists every error."""
    if {"--help", "-h"} & set(argv):
        for word in argv:
            if not word.startswith("-") and not word.endswith(CONFIG_FILES) and word not in schema.sections():
                raise ConfigError(f"--help {word}: unknown section, wanted one of {', '.join(schema.sections())}")
        print(schema.help([argument for argument in argv if argument in schema.sections()]))
        print("\n--help SECTION shows one section; --print_config shows every value and where it came from.")
        sys.exit(0)
    # nanoGPT's configs also find these in the globals they are executed with
    script = {"__name__": "__main__", "__file__": os.path.join(os.path.dirname(__file__), "train.py")}
    modules = {name: _LazyModule(module) for name, module in _MODULES.items()}
    overrides = Overrides({**script, **modules, **schema.defaults()}, schema)
    overrides.apply([argument for argument in argv if argument != "--print_config"])
    overrides.refuse_unsupported()
    try:
        options = schema.validated(overrides.values)
    except ValueError as error:
        overrides.errors.append(str(error))
    overrides.check()
    if "--print_config" in argv:
        print(options.table(overrides.origins))
        sys.exit(0)
    return options


class Overrides:
    """Applies arguments to a dict of values, in place, and collects the errors."""

    def __init__(self, values: dict[str, Any], schema: type[Schema] | None = None) -> None:
        self.values = values
        self.schema = schema
        self.names = set(schema.model_fields) if schema else {name for name in values if _is_setting(name, values)}
        self.sections = schema.sections() if schema else {}
        self.aliases = schema.ALIASES if schema else {}
        self.initial = {name: values[name] for name in self.names}
        self.origins: dict[str, str] = {}
        self.errors: list[str] = []

    def apply(self, arguments: Sequence[str]) -> None:
        """Apply config files and `--key=value` arguments, left to right."""
        for argument in arguments:
            if LOCAL_RANK.fullmatch(argument):
                continue
            if argument.startswith("--"):
                self.apply_flag(argument)
            elif argument.endswith(CONFIG_FILES[1:]):
                self.apply_yaml(argument)
            else:
                self.apply_python(argument)

    def check(self) -> None:
        """Raise one ConfigError that lists all errors, if there are any."""
        if self.errors:
            raise ConfigError("\n".join(self.errors))

    def apply_flag(self, argument: str) -> None:
        """Apply one `--key=value`; the key is an option, flat or dotted, or a variable of an earlier config file."""
        key, equals, text = argument[2:].partition("=")
        if isinstance(unquoted := _literal(text), str):
            text = unquoted  # --start="'two words'": nanoGPT reads a Python string
        if not equals:
            hint = f", did you mean --{key}=VALUE?" if key in self.names else self.suggestion(key)
            self.errors.append(f"{argument}: wanted --key=value{hint} (--help lists the options)")
        elif key not in self.names | set(self.aliases) and _is_setting(key, self.values):
            self.values[key] = _literal(text)
            _echo(f"Overriding: {key} = {self.values[key]}")
        elif name := self.assign(key, text, argument):
            _echo(f"Overriding: {name} = {self.values[name]}")

    def apply_yaml(self, path: str) -> None:
        """Apply a YAML file: options by flat name or under section headings, also mixed."""
        import yaml

        text = self.read(path)
        try:
            content = yaml.safe_load(text) or {}
        except (yaml.YAMLError, ValueError) as error:
            self.errors.append(f"{path} is not valid YAML: {error}")
            return
        if not isinstance(content, dict):
            self.errors.append(f"{path}: wanted options as 'name: value' lines, got {type(content).__name__}")
            return
        headings = {*self.sections, *(alias.split(".")[0] for alias in self.aliases if "." in alias)}
        for key, value in content.items():
            if value is None and key in headings:
                continue  # a heading without options
            if isinstance(value, dict) and key in headings:
                for inner, inner_value in value.items():
                    self.assign(f"{key}.{inner}", inner_value, path)
            elif isinstance(value, dict) and key not in self.names:
                self.errors.append(f"{path}: unknown section {key!r}, wanted one of {', '.join(self.sections)}")
            else:
                self.assign(str(key), value, path)

    def apply_python(self, path: str) -> None:
        """Execute a config file with the current values as its globals, and apply its assignments."""
        text = self.read(path)
        before = dict(self.values)
        try:
            exec(compile(text, path, "exec"), self.values)
            tree = ast.parse(text)
        except SyntaxError as error:
            self.errors.append(f"{path}:{error.lineno}: {error.msg}: {(error.text or '').strip()}")
            return
        except Exception as error:
            self.values.update({name: before[name] for name in self.names - set(self.values)})
            where = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
            line = f"{path}:{where[-1].lineno}: {where[-1].line}" if where else path
            self.errors.append(f"{line}: {type(error).__name__}: {error}")
            return
        lines, read = _assigned_and_read_names(tree)
        for name in self.names - set(self.values):
            self.errors.append(f"{path}: deletes the option {name!r}")
            self.values[name] = before[name]
        touched = {name for name in self.values if name not in before or before[name] is not self.values[name]}
        for name in sorted(touched | (self.names & set(lines)), key=lambda name: lines.get(name, 0)):
            origin, value = f"{path}:{lines.get(name, '?')}", self.values.get(name)
            if self.schema is None and name in self.names:
                self.origins[name] = origin  # nanoGPT checks the types of flags, not of files
            elif name in self.names or name in self.aliases:
                self.values[name] = before.get(name, value)
                self.assign(name, value, origin)
            elif (
                name in lines
                and name not in read
                and _is_setting(name, self.values)
                and (option := self.misspelt(name))
            ):
                self.errors.append(
                    f"{origin}: unknown option {name!r}, did you mean {option!r}? "
                    "(if it is a helper variable, use it in the file or rename it)"
                )

    def assign(self, key: str, value: Any, origin: str) -> str | None:
        """Set the option that `key` names (flat, dotted or alias) and return its flat name; on an error return None."""
        name = key
        if key in self.aliases:
            name, meaning = self.aliases[key]
            try:
                value = meaning[_literal(value)] if meaning else value
            except (LookupError, TypeError):
                self.errors.append(f"{origin}: cannot read {key}={value!r}; use the option {name!r} instead")
                return None
        elif "." in key and key.partition(".")[2] in self.sections.get(key.partition(".")[0], ()):
            name = key.partition(".")[2]
        if self.schema and name in {**self.schema.NOT_SUPPORTED, **self.schema.WITHOUT_EFFECT}:
            self.values[name] = _literal(value)
            return None
        if name not in self.names:
            self.errors.append(f"{origin}: unknown option {key!r}{self.suggestion(key)}")
            return None
        try:
            self.values[name] = (
                self.schema.fit(name, value) if self.schema else _converted_like(self.initial[name], value)
            )
        except ValueError as error:
            self.errors.append(f"{origin}: {name}: got {value!r}, wanted {error}")
            return None
        self.origins[name] = origin
        return name

    def refuse_unsupported(self) -> None:
        """Add an error for every option in `NOT_SUPPORTED` whose value is true."""
        for name, meaning in (self.schema.NOT_SUPPORTED if self.schema else {}).items():
            if value := self.values.get(name):
                self.errors.append(f"{name}={value!r} is not supported: coreGPT has no {meaning}; set it to False")

    def read(self, path: str) -> str:
        """Return a config file's text and echo it as nanoGPT does; on an error return an empty text."""
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            hint = f"; did you mean --{path.lstrip('-')}?" if "=" in path else ""
            self.errors.append(f"cannot read config file {path}: {getattr(error, 'strerror', None) or error}{hint}")
            return ""
        _echo(f"Overriding config with {path}:\n{text}")
        return text

    def suggestion(self, key: str) -> str:
        """Return `, did you mean ...?` with at most three similar options, or an empty text if none is similar."""
        dotted = [f"{heading}.{name}" for heading, names in self.sections.items() for name in names]
        if "." in key and (elsewhere := [name for name in dotted if name.partition(".")[2] == key.partition(".")[2]]):
            return f", did you mean {elsewhere[0]!r}?"
        candidates = [*dotted, *(alias for alias in self.aliases if "." in alias)] if "." in key else self.names
        edits, near = _nearest(key, candidates)
        return f", did you mean {' or '.join(map(repr, near[:3]))}?" if edits <= max(2, len(key) // 2) else ""

    def misspelt(self, name: str) -> str | None:
        """Return the option that a config file's variable probably misspells, or None."""
        edits, near = _nearest(name, self.names)
        return near[0] if edits <= (1 if len(name) < 8 else 2) else None


class _LazyModule:
    """A module that config files may use without importing it; imported on first use."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


def _converted_like(current: Any, value: Any) -> Any:
    """Return `value` converted to the type of `current`; None accepts any type. Raises ValueError."""
    if not isinstance(current, str):
        value = _literal(value)
    if isinstance(current, float) and type(value) is int:
        value = float(value)
    if current is not None and type(value) is not type(current):
        raise ValueError(type(current).__name__)
    return value


def _literal(value: Any) -> Any:
    """Return the value of a text that is a Python literal; anything else is returned as it is."""
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value


def _is_setting(name: str, values: dict[str, Any]) -> bool:
    """Return True for a public name with a plain value; False for modules, functions and private names."""
    value = values.get(name, _LazyModule)
    return not name.startswith("_") and isinstance(value, bool | int | float | str | list | tuple | dict | None)


def _assigned_and_read_names(tree: ast.Module) -> tuple[dict[str, int], set[str]]:
    """Return the names that a file assigns, with the line of the last assignment, and the names that it reads."""
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    assigned = {node.id: node.lineno for node in names if isinstance(node.ctx, ast.Store)}
    updated = {
        node.target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name)
    }
    return assigned, updated | {node.id for node in names if isinstance(node.ctx, ast.Load)}


def _nearest(word: str, names: Iterable[str]) -> tuple[int, list[str]]:
    """Return the smallest edit distance from `word` to any of `names`, and the names at that distance."""
    smallest, near = sys.maxsize, list[str]()
    for name in sorted(names, key=lambda name: abs(len(name) - len(word))):
        if abs(len(name) - len(word)) > smallest:
            break  # the distance is at least the difference in length
        if (edits := _edit_distance(word, name)) < smallest:
            smallest, near = edits, []
        if edits == smallest:
            near.append(name)
    return smallest, sorted(near)


def _edit_distance(left: str, right: str) -> int:
    """Return the number of insertions, deletions, substitutions and swaps of neighbours between two words."""
    rows = [list(range(len(right) + 1))]
    for i, a in enumerate(left, 1):
        row = [i]
        for j, b in enumerate(right, 1):
            cost = min(rows[-1][j] + 1, row[j - 1] + 1, rows[-1][j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]


def _echo(text: str) -> None:
    if is_rank_0():
        print(text)


if __name__ != "configurator":  # executed inside another script: override its globals
    with exit_on_error():
        _overrides = __import__("configurator").Overrides(globals())
        _overrides.apply(sys.argv[1:])
        _overrides.check()
