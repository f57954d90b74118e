"""Command lines of the programs with what people type by mistake, and with random values."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from benchmark.soak.inputs import edits
from benchmark.soak.inputs.base import Command, good_command
from config.options import Options, SampleOptions
from config.schema import Schema, members
from config.spelling import ADVICE, DASHES, FOREIGN, QUOTES
from config.stream_options import StreamOptions

Argv = list[str]
MOST_EDITS = 3
SINGLE_STRANGERS = """
    --fp16 --local_rank=0 -h -v --help --print_config --version --config=x.py +model.n_layer=3 n_layer train.py
    none.py none.yaml data out data/tiny/train.bin book.txt /dev/null /dev/zero out/ckpt.pt config/train_gpt2
    @args.txt & | -- - --- = --= --=3 --.=3 --model.n_layer --model.=3 --model.n_layer=1 --training.n_layer=1
    --n_layer.model=1 --__name__=x --__builtins__=x --np=3 --os=x --torch=1
"""
STRANGERS = (  # each one or more arguments, with spaces between them
    *(
        "--epochs 3",
        "-c config.yaml",
        "--deepspeed ds.json",
        "--bf16 true",
        "-lr 1e-3",
        "--help model",
        "--help nothing",
    ),
    *("", *SINGLE_STRANGERS.split()),
)


def make(rng: random.Random, folder: Path) -> Command:
    """Return a command line with one to three edits; files are as in the base folder."""
    command = good_command(rng)
    argv, changes = list(command.argv), []
    for _ in range(rng.choice([1, 1, 1, 2, MOST_EDITS])):
        edit = rng.choice(OPTION_EDITS if command.program in SCHEMAS and rng.random() < 0.8 else WORD_EDITS)
        argv = edit(rng, command.program, argv)
        changes.append(edit.__name__.strip("_"))
    return Command(command.program, [_as_argument(word) for word in argv], changes)


def random_text(rng: random.Random, schema: type[Schema], name: str) -> str:
    """Return a text for an option: one of its choices, a number, or a word."""
    choices = [choice for kind in members(schema.model_fields[name].annotation) for choice in get_args(kind)]
    pools = [edits.NUMBERS, edits.NUMBERS[:8], edits.WORDS, ("True", "False")]
    texts = [str(choice) for choice in choices if isinstance(choice, str)]
    return _text(rng.choice(rng.choice([*pools, *([texts] * 4 if texts else [])])))


def _text(value: object) -> str:
    try:
        return str(value)
    except ValueError:  # more digits than Python prints
        return "9" * 5000


def _as_argument(word: str) -> str:
    """Return a word as the system would pass it: it ends at a null byte, and bytes that are no UTF-8 are escaped."""
    return word.partition("\0")[0].encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")


# of one argument


def _at(edit: Callable[[random.Random, str, str], Argv]) -> Callable[[random.Random, str, Argv], Argv]:
    """Return an edit of a command line that replaces a random argument."""

    def apply(rng: random.Random, program: str, argv: Argv) -> Argv:
        if not argv:
            return edit(rng, program, "")
        at = rng.randrange(len(argv))
        return [*argv[:at], *edit(rng, program, argv[at]), *argv[at + 1 :]]

    apply.__name__ = edit.__name__
    return apply


@_at
def _removed(rng: random.Random, program: str, word: str) -> Argv:
    return []


@_at
def _twice(rng: random.Random, program: str, word: str) -> Argv:
    return [word, word]


@_at
def _slip(rng: random.Random, program: str, word: str) -> Argv:
    return [edits.misspelt(rng, word)]


@_at
def _misspelt_name(rng: random.Random, program: str, word: str) -> Argv:
    key, equals, value = word.partition("=")
    return [f"--{edits.misspelt(rng, key.lstrip('-'))}{equals}{value}"]


@_at
def _other_dashes(rng: random.Random, program: str, word: str) -> Argv:
    dash = rng.choice(DASHES)
    return [rng.choice(["", "-", dash, dash * 2, "---"]) + word.lstrip("-")]


@_at
def _other_equals(rng: random.Random, program: str, word: str) -> Argv:
    key, _, value = word.partition("=")
    forms = ([key, value], [f"{key} {value}"], [f"{key} = {value}"], [key, "=", value], [f"{key}:{value}"], [key])
    signs = ("==", "= ", "\uff1d", " =", "=-", "+=")
    return rng.choice([*forms, [f"{key}=="], [f"{key}="], *([f"{key}{sign}{value}"] for sign in signs)])


@_at
def _quoted(rng: random.Random, program: str, word: str) -> Argv:
    key, equals, value = word.partition("=")
    left, right = rng.choice(QUOTES), rng.choice(QUOTES)
    return [rng.choice([f"{left}{word}{right}", f"{key}{equals}{left}{value}{right}", f"{key}{equals}{left}{value}"])]


@_at
def _other_value(rng: random.Random, program: str, word: str) -> Argv:
    key, equals, _ = word.partition("=")
    value = _text(rng.choice(rng.choice([edits.WORDS, edits.NUMBERS])))
    return [f"{key}={value}" if equals or word.startswith("--") else value]


# of the command line


def _stranger(rng: random.Random, program: str, argv: Argv) -> Argv:
    at = rng.randrange(len(argv) + 1)
    return [*argv[:at], *rng.choice(STRANGERS).split(" "), *argv[at:]]


def _other_trainer(rng: random.Random, program: str, argv: Argv) -> Argv:
    name = rng.choice([*FOREIGN, *ADVICE])
    value = _text(rng.choice([*edits.NUMBERS[:8], "true", "x"]))
    return [*argv, *rng.choice([[f"--{name}={value}"], [f"--{name}", value], [f"--{name}"]])]


def _shuffled(rng: random.Random, program: str, argv: Argv) -> Argv:
    return rng.sample(argv, len(argv))


def _one_option(rng: random.Random, program: str, argv: Argv) -> Argv:
    schema = SCHEMAS.get(program, Options)
    name = rng.choice([*schema.model_fields])
    return [*argv, f"--{name}={random_text(rng, schema, name)}"]


def _several_options(rng: random.Random, program: str, argv: Argv) -> Argv:
    for _ in range(rng.randrange(2, 5)):
        argv = _one_option(rng, program, argv)
    return argv


def _joined(rng: random.Random, program: str, argv: Argv) -> Argv:
    return [" ".join(argv)]


SCHEMAS: dict[str, type[Schema]] = {
    "train.py": Options,
    "sample.py": SampleOptions,
    "tools.masking_report": Options,
    "prepare_streaming.py": StreamOptions,
}
WORD_EDITS = (
    *(_removed, _twice, _slip, _misspelt_name, _other_dashes, _other_equals, _quoted, _other_value),
    *(_stranger, _shuffled, _joined),
)
OPTION_EDITS = (*WORD_EDITS, *[_one_option] * 8, *[_several_options] * 3, *[_other_trainer] * 2)
