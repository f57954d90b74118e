"""docs/troubleshooting.md against the code: each message that a user must act on is there, in its present words."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
FOLDERS = ("core", "wiring", "data", "extras", "loss_modifiers", "config", "tools")
FILES = ("configurator.py", "model.py", "train.py", "sample.py")
KEY_WORDS = 4  # of a message, which a quotation of it must hold
WARNINGS = ("warning", "_warn", "_warn_once", "_report")  # log.warning, and what warns once

# by file: messages that are passed on or put together elsewhere; the page quotes those of them that begin there
PASSED_ON = {
    "configurator.py": {
        "'\\n'.join(self.errors)",  # the errors collected below
        "str(error)",  # of config/schema.py and config/mappings.py
        "self.without_value(argument, waiting)",
        "self.without_value(argument, [] if following is None else following)",
    },
    "config/options.py": {"'\\n'.join(errors)"},  # of options that contradict each other
    "config/schema.py": {
        "'\\n'.join((str(reason) for reason in reasons))",  # of the options, or of pydantic
        "f'{wanted(field)}, at most {largest:g}'",
        "wanted(field) + hint",
    },
    "core/checkpoint/format.py": {
        "CONVERT.format(path=path)",
        "f'{path} is {kind}'",  # of core/checkpoint/kinds: what the file is
    },
    "core/checkpoint/hugging_face.py": {"f'{file} is {kind}'"},
    "core/checkpoint/manager.py": {"f'{fault}; {found.path.name} is used instead' if found else fault"},
    "core/errors.py": {"text"},  # of a WarnOnce
    "core/stability/recovery.py": {"message"},  # the iteration and the cause
    "core/trainer.py": {"event", "f'{decision.message}{self.checkpointer.kept}\\n{diagnosis}'"},
    "data/stages.py": {"'\\n'.join(problems)", "'; '.join(problems)"},
    "tools/convert.py": {"str(error) if str(path) in str(error) else f'{path}: {error}'"},
    "wiring/model.py": {"'\\n'.join(conflicts)", "note"},  # of wiring/architecture.py
    "wiring/optimizer.py": {"surprise", "f'{error}{_what_to_do(checkpoint, options)}'"},
    "wiring/sampling.py": {"error"},  # of data/meta.py
}


def text_of(node: ast.AST) -> str | None:
    """Return a text of the code with `...` for each value in it and without quoting marks; None if it is no text."""
    if isinstance(node, ast.Constant):
        return normal(node.value) if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "..." for part in node.values]
        return normal("".join(map(str, parts)))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return normal(f"{text_of(node.left) or '...'}{text_of(node.right) or '...'}")
    return None


def normal(text: str) -> str:
    """Return a text on one line, without backticks, and with one `...` where several values follow each other."""
    return re.sub(r"\.{4,}", "...", " ".join(text.replace("`", "").split()))


def key_of(message: str) -> str:
    """Return the first words of a message's first run of three words or more, else all of its longest run."""
    runs = [run.strip(" :;,()") for run in message.split("...")]
    long = [run for run in runs if len(run.split()) >= 3]
    return " ".join((long[0] if long else max(runs, key=len)).split()[:KEY_WORDS])


def error_classes(trees: list[ast.Module]) -> set[str]:
    """Return the names of CoreGPTError and of everything that derives from it."""
    definitions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    names, count = {"CoreGPTError"}, 0
    while len(names) > count:
        count = len(names)
        names |= {found.name for found in definitions if any(name_of(base) in names for base in found.bases)}
    return names


def name_of(node: ast.AST) -> str:
    """Return the last name of `name` or `module.name`, empty for anything else."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def message_arguments(tree: ast.Module, classes: set[str]) -> Iterator[ast.expr]:
    """Yield what is raised in `classes`, warned of, or added to a list of errors."""
    for node in ast.walk(tree):
        call = node.exc if isinstance(node, ast.Raise) else node
        if not isinstance(call, ast.Call) or not call.args:
            continue
        is_raised = isinstance(node, ast.Raise) and name_of(call.func) in classes
        is_warning = isinstance(call.func, ast.Attribute) and call.func.attr in WARNINGS
        is_collected = ast.unparse(call.func).endswith(("errors.append", "parser.error"))
        if is_raised or is_warning or is_collected:
            yield call.args[0]


def quotations(page: str) -> list[str]:
    """Return the code quotes in the first column of the page's tables."""
    rows = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| ")]
    return [normal(quote) for row in rows for quote in re.findall(r"`([^`]+)`", row)]


def missing(messages: list[str], page: str) -> list[str]:
    """Return what to add to the page: a line for each message that no quotation on it covers."""
    quotes = quotations(page)
    covered = [any(key_of(message) in quote and quote in message for quote in quotes) for message in messages]
    return [
        f"add `{message}` to docs/troubleshooting.md, at least the words up to {key_of(message)!r}"
        for message, is_there in zip(messages, covered, strict=True)
        if not is_there
    ]


def stale(texts: list[str], page: str) -> list[str]:
    """Return what to correct on the page: a line for each quotation that no text of the code holds."""
    return [
        f"correct `{quote}` in docs/troubleshooting.md: no message has these words any more"
        for quote in quotations(page)
        if not any(quote in text for text in texts)
    ]


def read_sources() -> dict[str, ast.Module]:
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    paths += [ROOT / name for name in FILES]
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def collect(sources: dict[str, ast.Module]) -> tuple[list[str], list[str]]:
    """Return the messages, and where a message is that neither is a text nor in PASSED_ON."""
    classes, messages, unclear = error_classes(list(sources.values())), [], []
    for name, tree in sources.items():
        own = classes | {"ValueError"} if name.startswith("config/") else classes  # pydantic reports these as ours
        for argument in message_arguments(tree, own):
            text = text_of(argument)
            if ast.unparse(argument) in PASSED_ON.get(name, ()):
                continue
            if text is None:
                unclear.append(f"{name}:{argument.lineno}: {ast.unparse(argument)}")
            elif key_of(text):  # else it has only values, and its words are elsewhere
                messages.append(text)
    return messages, unclear


def test_page_has_each_message_of_the_code_in_its_words() -> None:
    sources = read_sources()
    messages, unclear = collect(sources)
    assert len(messages) > 250
    assert not unclear, f"give the text itself, or name it in PASSED_ON: {unclear}"
    page = PAGE.read_text(encoding="utf-8")
    texts = [text for tree in sources.values() for node in ast.walk(tree) if (text := text_of(node))]
    assert "\n".join(missing(messages, page) + stale(texts, page)) == ""


def test_each_exception_of_the_list_is_still_in_the_code() -> None:
    sources = read_sources()
    classes = error_classes(list(sources.values())) | {"ValueError"}
    for name, arguments in PASSED_ON.items():
        assert arguments <= {ast.unparse(argument) for argument in message_arguments(sources[name], classes)}, name


CODE = """
class Full(CoreGPTError): ...

def f(path, n):
    log.warning("going on without it")
    if n:
        raise Full(f"{path}{n}: the disk is full"
                   f" of {n} things: remove some")
    raise core.Full(text)
"""
PAGE_OF_CODE = """
| message | what to do |
|---|---|
| `...: the disk is full of`<br>`going on without it` | nothing, `remove` |
"""


def test_missing_and_stale_messages_are_found_in_made_up_code() -> None:
    messages, unclear = collect({"a.py": ast.parse(CODE)})
    assert sorted(messages) == ["...: the disk is full of ... things: remove some", "going on without it"]
    assert unclear == ["a.py:9: text"]
    assert missing(messages, PAGE_OF_CODE) == stale(messages, PAGE_OF_CODE) == []
    assert missing(messages, PAGE_OF_CODE.replace("disk is full", "room is gone")) == [
        "add `...: the disk is full of ... things: remove some` to docs/troubleshooting.md, "
        "at least the words up to 'the disk is full'"
    ]
    reworded = [message.replace("without it", "with others") for message in messages]
    assert [line.split("`")[1] for line in stale(reworded, PAGE_OF_CODE)] == ["going on without it"]
    assert len(missing(reworded, PAGE_OF_CODE)) == 1


def test_too_short_a_quotation_covers_no_message() -> None:
    assert missing(["... is full: remove some files"], "| `... is full` | x |")
    assert not missing(["... is full: remove some files"], "| `... is full: remove some files` | x |")


def test_keys_are_the_first_words_or_the_longest_run() -> None:
    assert key_of("cannot read ... (...): download the model again") == "download the model again"
    assert key_of("...: wanted ...") == "wanted"
    assert key_of("one two three four five ... six seven eight") == "one two three four"
