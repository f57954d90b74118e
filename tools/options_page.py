"""
Write docs/options.md from the declarations in config/options.py and config/stream_options.py.

    python -m tools.options_page
"""

from pathlib import Path

from config.options import Options, SampleOptions
from config.schema import Schema, default_text, wanted
from config.stream_options import StreamOptions

PATH = Path(__file__).resolve().parent.parent / "docs" / "options.md"
INTRODUCTION = """# Options

Written by `make docs` from `config/options.py` and `config/stream_options.py`; do not edit.

Every option can be set in a `.py` config (`batch_size = 16`), in a YAML, JSON or TOML file (flat, or under its
section's name), and on the command line (`--batch_size=16`, or `--training.batch_size=16`). Arguments apply from left
to right; the last wins. In paths, `~` and `$NAME` are expanded. `python train.py --help SECTION` shows one section,
`--print_config` every value and where it came from.
`auto` means that the default depends on the machine.
"""

STREAMING = """
Options of `data/<set>/prepare_streaming.py`. It accepts a training config, too, and ignores options not listed here.
"""


def page() -> str:
    """Return the text of docs/options.md."""
    parts = [INTRODUCTION, "## train.py", _tables(Options), "## sample.py", _tables(SampleOptions)]
    parts += ["## prepare_streaming.py", STREAMING, _tables(StreamOptions)]
    aliases = [f"| `{theirs}` | `{ours}` |" for theirs, (ours, _) in Options.ALIASES.items()]
    return "\n".join([*parts, "## Option names of other trainers", "\n| name | option |\n|---|---|", *aliases, ""])


def _tables(schema: type[Schema]) -> str:
    lines = []
    for heading, names in schema.sections().items():
        lines.append(f"\n### {heading}\n\n| option | default | takes | meaning |\n|---|---|---|---|")
        for name in names:
            field = schema.model_fields[name]
            takes, default = wanted(field).replace("|", "\\|"), default_text(field).replace("\n", "\\n")
            lines.append(f"| `{name}` | `{default}` | {takes} | {field.description} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PATH.write_text(page())
