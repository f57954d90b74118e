"""docs/troubleshooting.md against the code: each message that a user must act on is there, in its present words."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
FOLDERS = ("core", "wiring", "data", "extras", "loss_modifiers", "config", "tools", "coregpt")
FILES = ("configurator.py", "model.py", "train.py", "sample.py")
KEY_WORDS = 4  # of a message, which a quotation of it must hold
WARNINGS = ("warning", "_warn", "_warn_once", "_report")  # log.warning, and what warns once

STDERR = ("_print_on_stderr",)  # functions that print what they get there
FILE_KINDS = ("Kind",)  # what a file is, in data/file_kinds.py: the first words of a message
ERROR_LISTS = ("errors.append", "problems.append", "parser.error")

KINDS = (
    "core/checkpoint/other_formats.py: BEGINNINGS COMPRESSED LLAMA2C WEIGHT_KEYS MAKE_CHECKPOINT kind_of_file "
    "kind_of_content kind_of_folder kind_of_weights _kind_of_archive _kind_of_safetensors"
)
FAULTS = "core/checkpoint/search.py: newest _read_manifest _linked _why_no_file"
CAUSES = "core/stability/detector.py: CAUSES NOT_FINITE"
# by file: messages that are passed on or put together elsewhere, and the functions and tables whose texts they are;
# nothing there for what is collected where it is raised
PASSED_ON: dict[str, dict[str, str]] = {
    "configurator.py": {
        "'\\n'.join(self.errors)": "",  # the errors collected below
        "str(error)": "",  # of config/schema.py and config/mappings.py
        "self.without_value(argument, waiting)": "configurator.py: without_value",
        "self.without_value(argument, [] if following is None else following)": "",
        "line": "configurator.py: _note_missing_base",
        "note": "config/foreign_systems.py: translate",
    },
    "config/options.py": {"'\\n'.join(errors)": "config/options.py: _conflicts"},
    "config/schema.py": {
        "'\\n'.join(errors)": "config/schema.py: replace",
        "str(error)": "",
        "'\\n'.join((str(reason) for reason in reasons))": "",  # of the options, or of pydantic
        "f'{wanted(field)}, at most {largest:g}'": "",
        "wanted(field) + hint": "",
    },
    "core/checkpoint/emergency.py": {
        "f'an error ends the run: {outcome}; to go on: {trainer.checkpointer.resume_command()}'": (
            "core/checkpoint/emergency.py: _save"
        )
    },
    "core/checkpoint/format.py": {
        "CONVERT.format(path=path, convert=command('tools/convert.py'))": "core/checkpoint/format.py: CONVERT",
        "f'{path} is {kind}'": KINDS,
        "f'{path} cannot be used: its {fault}'": "core/checkpoint/format.py: _fault_of",
    },
    "core/checkpoint/hugging_face.py": {"f'{file} is {kind}'": ""},
    "core/checkpoint/manager.py": {
        "f'{fault}; {found.path.name} is used instead' if found else fault": FAULTS,
        "self._nothing_good(search.faults)": "core/checkpoint/manager.py: _nothing_good",
    },
    "core/errors.py": {"text": "", "str(error)": "", "f'error: {error}'": ""},  # of a WarnOnce; of what is raised
    "core/model_initializer.py": {
        "self._misfit(checkpoint, args, error)": "core/model_initializer.py: _misfit",
    },
    "core/stability/recovery.py": {"message": CAUSES},  # the iteration and the cause
    "core/trainer.py": {
        "event": "core/stability/monitor.py: record_rollback decide_on_evaluation",
        "f'{decision.message}{self.checkpointer.kept}\\n{diagnosis}'": "core/stability/recovery.py: decide",
    },
    "data/file_kinds.py": {
        "packed": "data/file_kinds.py: _packed_kind",
        "NUMBERS[code]": "data/file_kinds.py: NUMBERS",
    },
    "data/token_file.py": {"NUMBERS[code]": "", "NUMBERS['<u2']": ""},
    "data/stages.py": {
        "'\\n'.join(problems)": "",
        "'; '.join(problems)": "",
        "str(error)": "",
        "f'{where}[{number}], {entry!r}: {error}'": "",
    },
    "extras/sampling/chat.py": {"text": ""},  # a list of commands; of what is raised
    "extras/sampling/line_input.py": {"PROMPT": ""},
    "tools/convert.py": {
        "str(error) if str(path) in str(error) else f'{path}: {error}'": "",
        "f'{path} is {kind}'": "",  # of core/checkpoint/other_formats.py
    },
    "tools/legacy_checkpoints.py": {"f'{path} is {kind}'": ""},
    "wiring/given_parts.py": {"'\\n'.join(conflicts)": "wiring/given_parts.py: conflicts"},
    "wiring/saved_options.py": {"note": "wiring/saved_options.py: as_saved"},
    "wiring/model.py": {
        "'\\n'.join(conflicts)": "wiring/architecture.py: conflicts",
        "note": "wiring/architecture.py: notes",
    },
    "wiring/optimizer.py": {
        "surprise": "wiring/optimizer.py: surprises",
        "f'{error}{_what_to_do(checkpoint, options)}'": "",
    },
    "wiring/sampling.py": {"error": ""},  # of data/meta.py
}
# what is printed on stderr that asks for nothing
NO_MESSAGES = {"training ... ...", "source of Python ... in ...", "... is ... well-known tiny Shakespeare"}


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
    """Return a text on one line, without backticks, and with one `...` for the values of a place or of `format`."""
    return re.sub(r"\.{4,}", "...", " ".join(re.sub(r"\{\w+\}", "...", text.replace("`", "")).split()))


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
    """Yield what errors in `classes` are made of, and what is warned of, printed on stderr, or added to errors."""
    for node in ast.walk(tree):
        call = node.exc if isinstance(node, ast.Raise) else node
        if not isinstance(call, ast.Call) or not call.args:
            continue
        name = name_of(call.func)
        is_error = name in (*classes, *FILE_KINDS)
        if isinstance(node, ast.Raise):  # a class is called by itself; a variable may hold one
            is_error = isinstance(call.func, ast.Name) and name.islower() and name[0] != "_"
        is_warning = isinstance(call.func, ast.Attribute) and call.func.attr in WARNINGS
        is_printed = name in STDERR or any(ast.unparse(keyword.value) == "sys.stderr" for keyword in call.keywords)
        if is_error or is_warning or is_printed or ast.unparse(call.func).endswith(ERROR_LISTS):
            yield call.args[0]


def made_in(source: str, sources: dict[str, ast.Module]) -> list[str]:
    """Return the texts of at least three words in functions and tables, given as `file: name name`."""
    file, _, names = source.partition(": ")
    texts, found = [], set()
    for node in ast.walk(sources[file]):
        targets = node.targets if isinstance(node, ast.Assign) else [node]
        if not (
            name := {getattr(target, "name", getattr(target, "id", None)) for target in targets} & {*names.split()}
        ):
            continue
        if isinstance(node, ast.Assign | ast.FunctionDef):
            found |= name
            docstring = ast.get_docstring(node, clean=False) if isinstance(node, ast.FunctionDef) else None
            texts += [normal(text) for text in outermost_texts(node) if text != docstring]
    assert found == {*names.split()}, f"{file} has no { ({*names.split()} - found) }"
    return [text for text in texts if len(key_of(text).split()) >= 3]


def outermost_texts(node: ast.AST) -> Iterator[str]:
    """Yield the texts in a piece of code that are no part of another text."""
    for child in ast.iter_child_nodes(node):
        text = child.value if isinstance(child, ast.Constant) else text_of(child)
        if isinstance(text, str):
            yield text
        else:
            yield from outermost_texts(child)


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


@functools.cache
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
            text, code = text_of(argument), ast.unparse(argument)
            if code in PASSED_ON.get(name, {}):
                source = PASSED_ON[name][code]
                messages += made_in(source, sources) if source else []
            elif text is None:
                unclear.append(f"{name}:{argument.lineno}: {code}")
            elif key_of(text) and text not in NO_MESSAGES:  # else it has only values, and its words are elsewhere
                messages.append(text)
    return [*dict.fromkeys(messages)], unclear


def test_page_has_each_message_of_the_code_in_its_words() -> None:
    sources = read_sources()
    messages, unclear = collect(sources)
    assert len(messages) > 350
    assert not unclear, f"give the text itself, or name it in PASSED_ON: {unclear}"
    page = PAGE.read_text(encoding="utf-8")
    texts = [text for tree in sources.values() for node in ast.walk(tree) if (text := text_of(node))]
    assert "\n".join(missing(messages, page) + stale(texts, page)) == ""


def test_each_exception_of_the_list_is_still_in_the_code() -> None:
    sources = read_sources()
    classes = error_classes(list(sources.values())) | {"ValueError"}
    for name, arguments in PASSED_ON.items():
        assert arguments.keys() <= {ast.unparse(argument) for argument in message_arguments(sources[name], classes)}, (
            name
        )


CODE = """
class Full(CoreGPTError): ...

def f(path, n):
    log.warning("going on without it")
    if n:
        raise Full(f"{path}{n}: the disk is full"
                   f" of {n} things: remove some")
    raise core.Full(text)
"""
MADE_ELSEWHERE = '''
TABLE = {"a": "the first of two texts", "b": "too short"}

def reason(n, kind):
    """Return what is no message of the program."""
    if n > 1:
        return f"there are {n} of them, wanted one: remove others"
    print("a hint on stderr:", file=sys.stderr)
    errors.append("an error with others")
    made = DataError("an error that is returned")
    raise kind(reason(n))
'''
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


def test_texts_of_functions_and_tables_are_messages() -> None:
    sources = {"a.py": ast.parse(MADE_ELSEWHERE)}

    assert made_in("a.py: TABLE reason", sources)[:2] == [
        "the first of two texts",
        "there are ... of them, wanted one: remove others",
    ]
    with pytest.raises(AssertionError, match="a.py has no {'none'}"):
        made_in("a.py: TABLE none", sources)


def test_errors_are_collected_that_are_returned_listed_or_printed() -> None:
    arguments = message_arguments(ast.parse(MADE_ELSEWHERE), {"DataError"})

    assert sorted(map(ast.unparse, arguments)) == [
        "'a hint on stderr:'",
        "'an error that is returned'",
        "'an error with others'",
        "reason(n)",
    ]


def test_too_short_a_quotation_covers_no_message() -> None:
    assert missing(["... is full: remove some files"], "| `... is full` | x |")
    assert not missing(["... is full: remove some files"], "| `... is full: remove some files` | x |")


def test_keys_are_the_first_words_or_the_longest_run() -> None:
    assert key_of("cannot read ... (...): download the model again") == "download the model again"
    assert key_of("...: wanted ...") == "wanted"
    assert key_of("one two three four five ... six seven eight") == "one two three four"
