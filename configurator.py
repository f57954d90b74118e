"""
Options from defaults, `config/x.py`, `x.yaml` and `--key=value`, applied left to right; the last value wins. JSON and
TOML files are taken like YAML files.

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
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from config import foreign_systems, mappings, python_files, spelling
from core.commands import as_typed
from core.errors import ConfigError, exit_on_error, is_rank_0, print_and_exit

if TYPE_CHECKING:
    from config.schema import Schema

    SchemaT = TypeVar("SchemaT", bound=Schema)

LOCAL_RANK = re.compile(r"--local[-_]rank=\d+")  # added by `python -m torch.distributed.launch`, next to LOCAL_RANK
CONFIG_FLAG = "--config"
CONFIG_FILES = (".py", *mappings.ENDINGS)
# origins: a base file, a file that was imported, the defaults in a file that `Schema.save` wrote
NOT_THE_USERS = re.compile(r"(^|[/\\])base_\w+\.py:\d+$|:\?$| \(defaults\)$")
_MODULES = {name: name for name in ("os", "sys", "time", "math", "pickle", "torch")} | {"np": "numpy"}


def configure(schema: type[SchemaT], argv: Sequence[str]) -> SchemaT:
    """Return the options that `argv` sets. Raises one ConfigError that lists every error."""
    if {"--help", "-h"} & set(argv):
        for word in argv:
            if not word.startswith("-") and not word.endswith(CONFIG_FILES) and word not in schema.sections():
                raise ConfigError(f"--help {word}: unknown section, wanted one of {', '.join(schema.sections())}")
        text = schema.help([argument for argument in argv if argument in schema.sections()])
        print_and_exit(
            f"{as_typed(schema.USAGE)}\n\n{text}\n\n"
            "--help SECTION shows one section; --print_config shows every value and where it came from."
        )
    # nanoGPT's configs also find these in the globals they are executed with
    script = {"__name__": "__main__", "__file__": os.path.join(os.path.dirname(__file__), "train.py")}
    modules = {name: _LazyModule(module) for name, module in _MODULES.items()}
    overrides = Overrides({**script, **modules, **schema.defaults()}, schema)
    overrides.apply([argument for argument in argv if argument != "--print_config"])
    overrides.refuse_unsupported()
    overrides.check_files()
    try:
        options = schema.validated(overrides.values, overrides.set_by_user())
    except ValueError as error:
        overrides.errors.append(str(error))
    overrides.check()
    for line in overrides.without_base.values() if is_rank_0() else ():
        print(line, file=sys.stderr)
    if "--print_config" in argv:
        print_and_exit(options.table(overrides.origins))
    return options


def without_config_flag(argv: Sequence[str]) -> list[str]:
    """Return arguments with a bare file in place of `--config FILE` and `--config=FILE`."""
    found: list[str] = []
    for argument in argv:
        is_file = found[-1:] == [CONFIG_FLAG] and not argument.startswith("-")
        if is_file:
            found.pop()
        flag, _, file = argument.partition("=")
        found.append(file if flag == CONFIG_FLAG and file else argument)
    return found


class Overrides:
    """Applies arguments to a dict of values, in place, and collects the errors."""

    def __init__(self, values: dict[str, Any], schema: type[Schema] | None = None) -> None:
        self.values = values
        self.schema = schema
        self.names = set(schema.model_fields) if schema else {name for name in values if _is_setting(name, values)}
        self.sections = schema.sections() if schema else {}
        self.aliases = schema.ALIASES if schema else {}
        self.dotted = [f"{heading}.{name}" for heading, names in self.sections.items() for name in names]
        self.reads_others = schema is not None and schema.READS_OTHERS
        self.combined = foreign_systems.LORA_PARTS if self.reads_others else {}
        self.initial = {name: values[name] for name in self.names}
        self.origins: dict[str, str] = {}
        self.errors: list[str] = []
        self.unread: dict[str, str] = {}  # names that config files assign and nothing has read yet: the file
        self.without_base: dict[str, str] = {}  # files that need another one in front of them: what to say
        self.idle: dict[str, set[str]] = {}  # files that set no option: the names that they define for later files

    def apply(self, arguments: Sequence[str]) -> None:
        """Apply config files and `--key=value` arguments, left to right."""
        waiting = [argument for argument in without_config_flag(arguments) if not LOCAL_RANK.fullmatch(argument)]
        while waiting:
            argument = waiting.pop(0)
            if argument.startswith("--"):
                self.apply_flag(argument, waiting)
            elif argument.lower().endswith(mappings.ENDINGS):
                self.apply_mapping(argument)
            elif os.path.exists(argument) or not self.looks_like_a_flag(argument):
                self.apply_python(argument)
            elif "=" not in argument:
                self.errors.append(self.without_value(argument, waiting))
            else:
                key = spelling.split_flag(argument)[0]
                hint = self.repaired(argument) or (self.suggestion(key) if key not in self.names else "")
                self.errors.append(f"{argument!r}: wanted --key=value{hint}")

    def looks_like_a_flag(self, argument: str) -> bool:
        """Return whether an argument that is no file is a flag with other dashes, or without any."""
        has_dash = argument[:1] in spelling.DASHES and not argument.endswith(".py")
        return "=" in argument or has_dash or spelling.split_flag(argument)[0] in self.names

    def check(self) -> None:
        """Raise one ConfigError that lists all errors, if there are any."""
        if self.errors:
            raise ConfigError("\n".join(self.errors))

    def apply_flag(self, argument: str, following: list[str] | None = None) -> None:
        """Apply one `--key=value`; the key is an option, flat or dotted, or a variable of an earlier config file.

        following: the arguments after it; a value that was given as an argument of its own is taken from them
        """
        key, equals, text = argument[2:].partition("=")
        if isinstance(unquoted := _literal(text), str):
            text = unquoted  # --start="'two words'": nanoGPT reads a Python string
        if not equals:
            self.errors.append(self.without_value(argument, [] if following is None else following))
        elif key not in self.names | set(self.aliases) and _is_setting(key, self.values):
            self.values[key] = _literal(text)
            _echo(f"Overriding: {key} = {self.values[key]}")
        elif (meant := self.repaired(argument)) and not self.is_acceptable(key, text):
            self.errors.append(f"{argument!r}: got a flag that is not plain --key=value{meant}")
        elif not text and self.would_be_none(key):
            self.errors.append(f"{argument}: got '', wanted a path or None (is a variable of the shell not set?)")
        elif name := self.assign(key, text, spelling.visible(argument)):
            _echo(f"Overriding: {name} = {self.values[name]}")

    def without_value(self, argument: str, following: list[str]) -> str:
        """Return the error for a flag without `=`; remove its value from `following` if it is there."""
        key, _, _ = spelling.split_flag(argument)
        if following[:1] == ["="]:
            following.pop(0)
        has_value = bool(following) and not (following[0].startswith("--") or following[0].endswith(CONFIG_FILES))
        value = following.pop(0).removeprefix("=") if has_value else None
        if key.removeprefix("no_") in self.names and key not in self.names:
            return f"{argument}: wanted --key=value, did you mean --{key.removeprefix('no_')}=False?"
        if key not in self.names:
            return f"{argument}: wanted --key=value{self.suggestion(key)} (--help lists the options)"
        if value is not None and self.fits(key, value):
            return f"{argument} {value}: wanted --key=value, did you mean --{key}={value}?"
        value = "True" if isinstance(self.initial[key], bool) else "VALUE"
        return f"{argument}: wanted --key=value, did you mean --{key}={value}? (--help lists the options)"

    def apply_mapping(self, path: str) -> None:
        """Apply a YAML, JSON or TOML file: options by flat name or under section headings, also mixed."""
        count = len(self.errors)
        text = self.read(path)
        if len(self.errors) > count:
            return
        try:
            content = mappings.parse(path, text)
        except ValueError as error:
            self.errors.append(str(error))
            return
        if self.reads_others and (system := foreign_systems.recognise(content)):
            self.apply_foreign(path, content, system)
            return
        headings = {*self.sections, *(alias.split(".")[0] for alias in self.aliases if "." in alias)}
        for key, value in content.items():
            if value is None and key in headings:
                continue  # a heading without options
            if isinstance(value, dict) and key == "defaults" and key not in self.names:
                for inner, inner_value in value.items():
                    self.assign(str(inner), inner_value, f"{path} (defaults)")
            elif isinstance(value, dict) and key in headings:
                for inner, inner_value in value.items():
                    self.assign_mapped(f"{key}.{inner}", inner_value, path)
            elif isinstance(value, dict) and key not in self.names:
                self.errors.append(f"{path}: unknown section {key!r}, wanted one of {', '.join(self.sections)}")
            else:
                self.assign_mapped(str(key), value, path)

    def assign_mapped(self, key: str, value: Any, path: str) -> None:
        """Set the option that a key of a mapping names; a name of transformers' TrainingArguments may be one."""
        name = key.rpartition(".")[2]
        translate = foreign_systems.TRAINING_ARGUMENTS.get(name) if self.reads_others else None
        if translate is None or name in self.names or key in self.aliases:
            self.assign(key, value, path)
            return
        try:
            found = translate(value) if value is not None else {}
        except (TypeError, ValueError):
            self.errors.append(f"{path}: cannot read {key}={spelling.shown(value)}")
            return
        for option, meant in found.items():
            self.assign(option, meant, path)

    def apply_foreign(self, path: str, content: dict[Any, Any], system: foreign_systems.System) -> None:
        """Apply a file of another system."""
        found = foreign_systems.translate(path, content, system, self.names)
        self.errors += found.errors
        for name, value, is_written in found.options:
            self.assign(name, value, path if is_written else f"{path} (defaults)")
        for note in found.notes if is_rank_0() else ():
            print(note, file=sys.stderr)

    def apply_python(self, path: str) -> None:
        """Execute a config file with the current values as its globals, and apply its assignments."""
        count = len(self.errors)
        text = self.read(path)
        before = dict(self.values)
        tree = self._execute(path, text) if len(self.errors) == count else None
        if tree is None:
            self.values.update({name: before[name] for name in self.names})  # those that it set are not checked
            return
        for name in self.names - set(self.values):
            self.errors.append(f"{path}: deletes the option {name!r}")
            self.values[name] = before[name]
        lines, declared, read = python_files.names_of(tree)
        for name in [name for name in declared if name in self.known()]:
            self.errors.append(
                f"{path}:{declared[name]}: `{name}: VALUE` sets nothing in Python: write `{name} = VALUE`, or give the "
                "file a name that ends in .yaml"
            )
        self._note_unread(path, lines, read)
        touched = {name for name in self.values if name not in before or before[name] is not self.values[name]}
        for name in sorted(touched | (self.names & set(lines)), key=lambda name: lines.get(name, 0)):
            origin, value = f"{path}:{lines.get(name, '?')}", self.values.get(name)
            if self.schema is None and name in self.names:
                self.origins[name] = origin  # nanoGPT checks the types of flags, not of files
            elif name in self.names or name in self.aliases or name in self.combined:
                self.values[name] = before.get(name, value)
                self.assign(name, value, origin)
            elif self.unread.get(name) == path and (option := self.misspelt(name)):
                del self.unread[name]
                self.errors.append(
                    f"{origin}: unknown option {name!r}, did you mean {option!r}? "
                    "(if it is a helper variable, use it in the file or rename it)"
                )
        self._note_missing_base(path, set(lines))
        self.idle = {file: names for file, names in self.idle.items() if not names & read}
        sets_an_option = (touched | set(lines)) & self.known()
        if not sets_an_option and not python_files.runs_other_files(tree) and len(self.errors) == count:
            self.idle[path] = touched

    def _execute(self, path: str, text: str) -> ast.Module | None:
        """Execute a config file with the current values as its globals; return its tree, None if it fails."""
        try:
            tree, code = python_files.compiled(text, path)
            with python_files.importing_from_here():
                exec(code, self.values)
            return tree
        except SyntaxError as error:
            hint = "; write a path as r'C:\\...' or with /" if "unicodeescape" in str(error.msg) else ""
            if error.lineno:
                line = (text.splitlines()[error.lineno - 1 : error.lineno] or [""])[0]
                self.errors.append(f"{path}:{error.lineno}: {error.msg}: {spelling.shown(line.strip(), str)}{hint}")
            else:
                self.errors.append(f"{path}: {error.msg}")
        except (Exception, SystemExit) as error:  # a file that ends the program would look like a finished run
            where = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
            line = f"{path}:{where[-1].lineno}: {where[-1].line}" if where else path
            self.errors.append(f"{line}: {type(error).__name__}: {spelling.shown(error, str)}")
        return None

    def _note_unread(self, path: str, lines: dict[str, int], read: set[str]) -> None:
        """Keep the names that a file assigns and that neither this nor a later file reads."""
        assigned = {name for name in lines if _is_setting(name, self.values)} - read - self.known()
        self.unread = {name: file for name, file in self.unread.items() if name not in read}
        self.unread |= dict.fromkeys(sorted(assigned, key=lambda name: lines[name]), path)

    def _note_missing_base(self, path: str, assigned: set[str]) -> None:
        """Keep what to say if a file that assigns these names stands without the base file that it needs."""
        for base, signs in self.schema.BASES.items() if self.schema else ():
            if signs.matches(assigned, set(self.origins)):
                self.without_base[path] = (
                    f"{path} looks like a config of the {signs.line}, whose defaults are not the ones here: put {base} "
                    "before it"
                )

    def check_files(self) -> None:
        """Add an error for each file that sets no option; print the names that files assign and nothing reads."""
        for path in self.idle:
            self.errors.append(
                f"{path} sets no option: wanted lines such as `batch_size = 8`, outside of any dict, class or function "
                "(--help lists the options)"
            )
        for path in dict.fromkeys(self.unread.values()):
            names = [name for name, file in self.unread.items() if file == path]
            meant = {name: spelling.FOREIGN.get(name.lower(), name.lower()) for name in names}
            shown = [f"{name} (here: {meant[name]})" if meant[name] in self.names else name for name in names]
            if is_rank_0():
                print(f"{path}: these set nothing here: {', '.join(shown)}", file=sys.stderr)

    def set_by_user(self) -> set[str]:
        """Return the options that a flag or a line of the user's own files sets; a base file is not the user's own."""
        return {name for name, origin in self.origins.items() if not NOT_THE_USERS.search(origin)}

    def known(self) -> set[str]:
        """Return the names that are an option here or of another program of ours, or that are accepted as one."""
        others = (
            {*self.schema.ELSEWHERE, *self.schema.NOT_SUPPORTED, *self.schema.WITHOUT_EFFECT} if self.schema else set()
        )
        return self.names | set(self.aliases) | set(self.combined) | others

    def assign(self, key: str, value: Any, origin: str) -> str | None:
        """Set the option that `key` names (flat, dotted or alias) and return its flat name; on an error return None."""
        name = key
        if key in self.combined:
            for option, meant in foreign_systems.lora_part(key, self.values).items() if _literal(value) else ():
                self.assign(option, meant, origin)
            return None
        if key in self.aliases:
            name, meaning = self.aliases[key]
            try:
                value = meaning[_literal(value)] if meaning else value
            except (LookupError, TypeError):
                self.errors.append(
                    f"{origin}: cannot read {key}={spelling.shown(value)}; use the option {name!r} instead"
                )
                return None
        elif "." in key and key.partition(".")[2] in self.sections.get(key.partition(".")[0], ()):
            name = key.partition(".")[2]
        if self.schema and name not in self.names and name in self.known():
            self.values[name] = _literal(value)
            why = self.schema.WITHOUT_EFFECT.get(name)
            if name in self.schema.ELSEWHERE:
                why = f"an option of {self.schema.ELSEWHERE[name]}"
            if why and origin.startswith("--") and is_rank_0():
                print(f"{origin}: without effect here ({why})", file=sys.stderr)
            return None
        if self.schema and name in self.schema.NO_OPTION:
            self.errors.append(
                f"{origin}: {name} is a field of GPTConfig in model.py whose type no option can have: set it there"
            )
            return None
        if name not in self.names:
            self.errors.append(f"{origin}: unknown option {key!r}{self.suggestion(key)}")
            return None
        try:
            self.values[name] = (
                self.schema.fit(name, value) if self.schema else _converted_like(self.initial[name], value)
            )
        except ValueError as error:
            self.errors.append(f"{origin}: {name}: got {spelling.shown(value)}, wanted {error}")
            return None
        if self.schema and name in self.schema.NOT_YET and self.values[name] != self.initial[name]:
            self.errors.append(f"{origin}: {name} has no effect yet: remove it")
            return None
        if self.schema and name in self.schema.NEAR_CONFIG:
            near_config = os.path.join(os.path.dirname(origin.partition(":")[0]), str(self.values[name]))
            self.values[name] = near_config if os.path.isfile(near_config) else self.values[name]
        self.origins[name] = origin
        return name

    def refuse_unsupported(self) -> None:
        """Add an error for every option in `NOT_SUPPORTED` whose value is true."""
        for name, meaning in (self.schema.NOT_SUPPORTED if self.schema else {}).items():
            if value := self.values.get(name):
                self.errors.append(
                    f"{name}={spelling.shown(value)} is not supported: coreGPT has no {meaning}; set it to False"
                )

    def read(self, path: str) -> str:
        """Return a config file's text and echo it as nanoGPT does; on an error return an empty text."""
        try:
            if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path) or _is_stream(path)):
                raise ValueError("it is a device or a named pipe, wanted a file")  # reading it may never end
            if python_files.is_program(path):
                raise ValueError("it is a program, wanted a file of options")
            with open(path, encoding="utf-8-sig") as file:  # editors on Windows write a byte order mark
                text = file.read()
        except (OSError, ValueError) as error:  # among them UnicodeDecodeError, and a null byte in the path
            near = None if os.path.isfile(path) else spelling.near_file(path, CONFIG_FILES)
            hint = f"; did you mean {near}?" if near else ""
            cause = getattr(error, "strerror", None) or error
            if isinstance(error, UnicodeDecodeError):
                byte = error.object[error.start]
                cause = f"it is not UTF-8 text (byte 0x{byte:02x} at position {error.start}): save it as UTF-8"
            elif isinstance(error, IsADirectoryError):
                cause = f"it is a folder, wanted a file that ends in {', '.join(CONFIG_FILES)}"
            self.errors.append(f"cannot read config file {spelling.visible(path)}: {cause}{hint}")
            return ""
        _echo(f"Overriding config with {path}:\n{text}")
        return text

    def suggestion(self, key: str) -> str:
        """Return `, did you mean ...?` with at most three similar options, or an empty text if none is similar."""
        dotted = [*self.dotted, *(alias for alias in self.aliases if "." in alias)]
        return spelling.suggestion(key, self.names, dotted)

    def repaired(self, argument: str) -> str:
        """Return `, did you mean --key=value?` if plain dashes, quotes and spaces make an argument valid, else ''."""
        key, value, has_value = spelling.split_flag(argument)
        return f", did you mean --{key}={value}?" if has_value and self.fits(key, value) else ""

    def is_acceptable(self, key: str, text: str) -> bool:
        """Return whether a flag is taken as it is; a name in typographic quotes is not meant to have them."""
        is_quoted = text[:1] in spelling.TYPOGRAPHIC and bool(text) and not self.takes_prose(key)
        return not is_quoted and (self.fits(key, text) if key in self.names else "." in key or key in self.known())

    def takes_prose(self, key: str) -> bool:
        """Return whether an option is a text of the user's, such as a prompt, in which every character counts."""
        return self.schema is not None and self.schema.text_kind(key) == "prose"

    def would_be_none(self, key: str) -> bool:
        """Return whether an empty value of this option would have the meaning of its default None: it is a path."""
        name = key.rpartition(".")[2]
        is_path = self.schema is not None and self.schema.text_kind(name) == "path"
        return is_path and self.initial.get(name, "") is None and self.fits(name, "")

    def fits(self, key: str, value: Any) -> bool:
        """Return whether an option takes a value."""
        try:
            self.schema.fit(key, value) if self.schema else _converted_like(self.initial[key], value)
        except (LookupError, ValueError):
            return False
        return True

    def misspelt(self, name: str) -> str | None:
        """Return the option that a config file's variable probably misspells, or None."""
        edits, near = spelling.nearest(name, self.names)
        if edits > (1 if len(name) < 8 else 2) or name in spelling.FOREIGN:
            return None
        value = self.values[name]
        if self.schema and isinstance(value, list | tuple | dict) and not self.fits(near[0], value):
            return None  # no slip of an option that is a number or a text
        return near[0]


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


def _is_stream(path: str) -> bool:
    """Return whether a path is an open file of this process, such as that of `train.py <(make_config)`."""
    return path.startswith(("/dev/fd/", "/dev/stdin", "/dev/null", "/proc/self/fd/"))


def _echo(text: str) -> None:
    if is_rank_0():
        with suppress(BrokenPipeError):  # `train.py | head` trains on
            print(text)


if __name__.rpartition(".")[2] != "configurator":  # executed inside another script: override its globals
    with exit_on_error():
        _overrides = __import__("configurator").Overrides(globals())
        _overrides.apply(sys.argv[1:])
        _overrides.check()
