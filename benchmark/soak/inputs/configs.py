"""Config files in Python, YAML, JSON and TOML with wrong lines, wrong values, and damaged bytes."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmark.soak.inputs import edits
from benchmark.soak.inputs.base import SAMPLE, TINY, Command
from config import options
from config.options import Options

SETTINGS: dict[str, Any] = {
    "learning_rate": 1e-3, "max_iters": 2, "eval_interval": 2, "out_dir": "new", "dropout": 0.1, "n_head": 2,
    "weight_decay": 0.1, "always_save_checkpoint": True, "dataset": "tiny", "batch_size": 2, "bias": False,
    "wandb_project": "mine", "seed": 7,
}  # fmt: skip
STAGES = {
    "training_type": "unmasking",
    "unmasking_stages": [{"type": "random", "max_masked_ratio": 0.5, "val_loss_stale_count": 1}],
}
SHORT_LINES = """
    import torch
    import nothing_like_this
    import sys; sys.exit('no')
    exit()
    from config.quickstart import *
    from x import *
    from pathlib import Path
    n = 3
    del n_layer
    n_layer += 1
    n_layer = 1
    n_layer: int = 1
    n_layer = None
    n_layer = n_head = True
    if True: n_layer = 1
    class n_layer: pass
    def f(: pass
    batch_size = block_size // 0
    batch_size = lambda: 3
    raise ValueError('mine')
    assert False
    x = [1, 2
    dtype = torch.float32
    device = torch.device('cpu')
    max_iters = np.int64(3)
    learning_rate = np.float32(1e-3)
    dropout = torch.tensor(0.1)
    n_embd = np.array([32])
    out_dir = __file__
    out_dir = os.environ
    out_dir = Path('new')
    print('hello')
    open = print
    globals().clear()
    __builtins__ = {}
    a: [1
    a: &x [*x]
    a: *b
    - 1
    ---
    ...
    %YAML 9
    model: 3
    model:
    model: {n_layer: 1}
    ? [1]
    !!python/x y
    2026-11-26: 3
    seed: 2026-11-26
    seed = 2026-11-26
    seed: 0o17
    seed: 1e3
    bias: yes
    [model]
    [[model]]
    [nothing]
    a.b.c = 1
    {
    }
    null
    // comment
    /* */
    #
    '''
    é = 1
    日本 = 1
"""
LINES = (
    *(line.strip() for line in SHORT_LINES.splitlines()),
    *("  n_layer = 1", "\tseed = 1", "\\", "\x00", "\x0c", "seed = 9" + "9" * 5000, "x = " + "(" * 300 + ")" * 300),
    *(
        "x = " + "[" * 150 + "]" * 150,
        "x = " + "-" * 5000 + "1",
        "x: " + "[" * 5000,
        "x: " + "{a: " * 200,
        "[" * 100_000,
    ),
)
PRESETS = Path(options.__file__).parent  # but for the base files, and those that need the weights of GPT-2
NOTATIONS = (".py", ".py", ".yaml", ".yml", ".json", ".toml")


def make(rng: random.Random, folder: Path) -> Command:
    """Write a config file with one to three edits, and return a command line that uses it."""
    ending, changes = rng.choice(NOTATIONS), ["preset"]
    if ending == ".py" and rng.random() < 0.3:
        text, arguments = rng.choice(sorted(PRESETS.glob("[!bef]*.py"))).read_text(), TINY
    else:
        settings, changes = _settings(rng)
        text, arguments = written(settings, ending), []
    for edit in rng.choices(TEXT_EDITS, k=rng.choice([0, 1, 1, 2])):
        text = edit(rng, text)
        changes.append(edit.__name__.strip("_"))
    content = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.4:
        name, content = edits.damaged(rng, content)
        changes.append(name)
    path = folder / f"mine{ending if rng.random() < 0.95 else rng.choice(NOTATIONS)}"
    path.write_bytes(content)
    command = rng.choice([("train.py", TINY)] * 4 + [("sample.py", SAMPLE), ("tools.masking_report", TINY)])
    return Command(command[0], [*command[1], path.name, *arguments], changes or ["unchanged"])


def _settings(rng: random.Random) -> tuple[dict[str, Any], list[str]]:
    """Return options by name, some with other names or values, and what was changed."""
    settings = {**SETTINGS, **(STAGES if rng.random() < 0.3 else {})}
    settings = {name: settings[name] for name in rng.sample([*settings], rng.randrange(1, len(settings)))}
    changes = []
    for name in rng.sample([*settings], rng.choice([0, 0, 1, 1, 2]) % (len(settings) + 1)):
        change = rng.choice(["value", "value", "name", "nested", "another"])
        if change == "value":
            settings[name] = edits.value(rng)
        elif change == "name":
            settings[edits.misspelt(rng, name)] = settings.pop(name)
        elif change == "nested":
            section = rng.choice([*Options.sections(), "nothing"])
            settings[section] = {name: settings.pop(name)}
        else:
            settings[rng.choice([*Options.model_fields])] = edits.value(rng)
        changes.append(change)
    return settings, changes


def written(settings: dict[str, Any], ending: str) -> str:
    """Return options in the notation of a file's ending."""
    if ending == ".json":
        return json.dumps({str(key): _plain(value) for key, value in settings.items()}, indent=1)
    if ending == ".py":
        return "".join(f"{key} = {_repr(value)}\n" for key, value in settings.items())
    equals = " = " if ending == ".toml" else ": "
    return "".join(f"{key}{equals}{json.dumps(_plain(value))}\n" for key, value in settings.items())


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # more digits than Python prints
        return "10 ** 5000"


def _plain(value: Any) -> Any:
    """Return a value without what JSON has no form for."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.decode("latin-1") if isinstance(value, bytes) else value


# of the text


def _without_a_line(rng: random.Random, text: str) -> str:
    lines = text.splitlines(keepends=True)
    return "".join(lines[:-1] if len(lines) < 2 else rng.sample(lines, len(lines) - 1))


def _with_a_line(rng: random.Random, text: str) -> str:
    lines = text.splitlines(keepends=True)
    lines.insert(rng.randrange(len(lines) + 1), f"{rng.choice(LINES)}\n")
    return "".join(lines)


def _with_a_line_of_options(rng: random.Random, text: str) -> str:
    name, sign = rng.choice([*Options.model_fields]), rng.choice([" = ", ": ", ":", "=", " "])
    return text + f"{name}{sign}{_repr(edits.value(rng))}\n"


def _with_a_line_cut(rng: random.Random, text: str) -> str:
    lines = text.splitlines() or [""]
    at = rng.randrange(len(lines))
    lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)]
    return "\n".join(lines)


def _with_other_signs(rng: random.Random, text: str) -> str:
    old = rng.choice(["=", ":", '"', "'", ",", "_", " ", "True"])
    return text.replace(old, rng.choice(["=", ":", "“", "", "\t", ";", "true"]))


def _indented(rng: random.Random, text: str) -> str:
    lines = text.splitlines(keepends=True) or [""]
    at = rng.randrange(len(lines))
    lines[at] = rng.choice([" ", "    ", "\t", "\u00a0"]) + lines[at]
    return "".join(lines)


def _nested_deeply(rng: random.Random, text: str) -> str:
    depth = rng.choice([50, 500, 20_000])
    return f"{text}x{rng.choice([' = ', ': '])}{'[' * depth}{']' * rng.choice([depth, depth, 0])}\n"


def _twice(rng: random.Random, text: str) -> str:
    return text + text


TEXT_EDITS: tuple[Callable[[random.Random, str], str], ...] = (
    *[_with_a_line] * 4,
    *[_with_a_line_of_options] * 3,
    *(_without_a_line, _with_a_line_cut, _with_other_signs, _indented, _nested_deeply, _twice),
)
