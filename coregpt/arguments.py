"""The arguments of `coregpt train` and `coregpt sample`: presets by name, and `--key value` as `--key=value`."""

from collections.abc import Collection, Sequence
from pathlib import Path

from coregpt.presets import FILES, find, presets

HELP = ("--help", "-h")


def read_arguments(program: str, argv: Sequence[str]) -> list[str]:
    """Return the arguments in the form that the programs of the checkout take. program: train or sample

    Raises ConfigError for a preset that does not exist.
    """
    from config.options import Options, SampleOptions

    schema = Options if program == "train" else SampleOptions
    names = {*Options.model_fields, *SampleOptions.model_fields, *schema.ALIASES, *schema.WITHOUT_EFFECT}
    switches = {
        name
        for options in (Options, SampleOptions)
        for name, field in options.model_fields.items()
        if field.annotation is bool
    }
    if set(argv) & set(HELP):
        from configurator import configure  # the programs import torch before they print it

        configure(schema, argv)
    return [word if word.startswith("-") or "=" in word else find(word) for word in with_values(argv, names, switches)]


def with_values(argv: Sequence[str], names: Collection[str], switches: Collection[str]) -> list[str]:
    """Return the arguments with `--key value` written as `--key=value`.

    names:    the options; other words that begin with -- stay as they are
    switches: the options that are True or False: the next word is the value of one only if it is one of these, else
              the option is True. The next word after any other option is its value
    """
    waiting, found = list(argv), []
    while waiting:
        word = waiting.pop(0)
        name = word.removeprefix("--").rpartition(".")[2]
        if not word.startswith("--") or "=" in word:
            found.append(word)
        elif name not in names:  # an error, which names the option meant; a value after it is not another mistake
            takes_next = waiting and not waiting[0].startswith("-") and not _is_config(waiting[0])
            found.append(f"{word}={waiting.pop(0)}" if takes_next else word)
        elif name in switches:
            found.append(f"{word}={waiting.pop(0) if waiting[:1] in (['True'], ['False']) else True}")
        else:
            found.append(f"{word}={waiting.pop(0)}" if waiting else word)
    return found


def _is_config(word: str) -> bool:
    return word.endswith(FILES) or Path(word).exists() or word in presets()
