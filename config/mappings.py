"""Config files that are a mapping: YAML, JSON and TOML."""

import json
import reprlib
import tomllib
from pathlib import Path
from typing import Any

ENDINGS = (".yaml", ".yml", ".json", ".toml")
LONGEST = 80  # characters of a line in a message


def parse(path: str, text: str) -> dict[Any, Any]:
    """Return the mapping in a config file's text; its ending says the notation. Raises ValueError with file and line."""
    ending = Path(path).suffix.lower()
    read = {".json": _json, ".toml": _toml}.get(ending, _yaml)
    try:
        content = read(path, text)
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply: wanted 'name: value' lines, at most under a section") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path}: wanted options as 'name: value' lines, got {_shown(content)}")
    return content


def _yaml(path: str, text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        wrong = f": {_shown(lines[mark.line])}" if mark and mark.line < len(lines := text.splitlines()) else ""
        raise ValueError(f"{path}{line} is not valid YAML: {error.problem or error.context}{wrong}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None


def _json(path: str, text: str) -> Any:
    try:
        return json.loads(text) if text.strip() else None
    except json.JSONDecodeError as error:
        lines = text.splitlines()
        wrong = f": {_shown(lines[error.lineno - 1])}" if error.lineno <= len(lines) else ""
        raise ValueError(
            f"{path}:{error.lineno} is not valid JSON: {error.msg.removesuffix(' at')}, column {error.colno}{wrong}"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None


def _toml(path: str, text: str) -> Any:
    try:
        return tomllib.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None


def _shown(value: Any) -> str:
    """Return a line or a value of a file for a message, shortened, in one line."""
    if not isinstance(value, str):
        return reprlib.repr(value)
    line = value.strip()
    return repr(line) if len(line) <= LONGEST else f"{line[:LONGEST]!r}..."
