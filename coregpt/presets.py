"""The presets that come along, by name, and the file that a name means."""

import difflib
import textwrap
from collections.abc import Sequence
from pathlib import Path

import config
from config.mappings import ENDINGS
from core.errors import ConfigError, print_and_exit

FOLDER = Path(config.__file__).resolve().parent
FILES = (".py", *ENDINGS)


def presets() -> dict[str, Path]:
    """Return the path of every preset by its name, such as `quickstart`; in a sub-folder `folder/name`."""
    found = [path for ending in FILES for path in FOLDER.rglob(f"*{ending}") if not _is_module(path)]
    return {path.relative_to(FOLDER).with_suffix("").as_posix(): path for path in sorted(found)}


def find(word: str) -> str:
    """Return the config file that a word of the command line means: a path, or the name of a preset.

    A file in the current folder comes first, then one in its `config/`, then a preset that comes along. Raises
    ConfigError if there is none.
    """
    name = word.removeprefix("config/").removesuffix(".py")
    places = [Path(word), *(Path("config", f"{name}{ending}") for ending in FILES)]
    known = presets()
    if own := next((place for place in places if place.is_file() or (place.exists() and place == Path(word))), None):
        return str(own)
    if name in known:
        return str(known[name])
    if word.endswith(FILES) and not word.startswith("config/"):
        return word  # a file that is not there: the options name a similar one
    if word in ("true", "false"):
        raise ConfigError(f"{word}: wanted True or False after an option, or --option={word}")
    near = [f"{word}{ending}" for ending in FILES if Path(f"{word}{ending}").is_file()]
    near += difflib.get_close_matches(name, known, n=1) or [other for other in known if other.endswith(f"/{name}")]
    hint = f", did you mean {near[0]}?" if near else ""
    raise ConfigError(f"{word}: no such preset or file{hint} (coregpt presets lists the presets)")


def with_presets(words: Sequence[str]) -> list[str]:
    """Return the words of a command line with the path of a preset in place of its name, where no such file exists."""
    known = presets()
    names = {word: word.removeprefix("config/").removesuffix(".py") for word in words if not Path(word).exists()}
    return [str(known[names[word]]) if names.get(word) in known else word for word in words]


def main(argv: Sequence[str]) -> None:
    """Print the presets, a line each."""
    if argv and argv[0] not in ("--help", "-h"):
        raise ConfigError(f"presets {argv[0]}: wanted no argument; coregpt train {argv[0]} trains with a preset")
    known = presets()
    width = max(map(len, known))
    bases = {name for name in known if name.rpartition("/")[2].startswith("base")}  # not meant to be trained
    lines = [_line(name, path, width) for name, path in known.items() if name not in bases]
    lines += [
        "\nto build on, in a config file of your own:",
        *(_line(name, known[name], width) for name in sorted(bases)),
    ]
    print_and_exit("\n".join(lines))


def _line(name: str, path: Path, width: int) -> str:
    return textwrap.fill(f"{name:{width}}  {_meaning(path)}", 100, subsequent_indent=" " * (width + 2))


def _is_module(path: Path) -> bool:
    """Return whether a file is Python of ours, which begins with a docstring; a preset begins with a comment."""
    with open(path, encoding="utf-8") as file:
        return file.readline().startswith('"""') or path.name == "__init__.py"


def _meaning(path: Path) -> str:
    with open(path, encoding="utf-8") as file:
        return file.readline().lstrip("# ").strip()
