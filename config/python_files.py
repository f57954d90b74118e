"""Config files in Python: the names that they assign, declare and read."""

import ast
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple, TypeGuard

TREE = Path(__file__).resolve().parents[1]
PACKAGE = __name__.removesuffix("config.python_files")  # of an installed program; empty in a checkout
PROGRAMS = [TREE / name for name in ("train.py", "sample.py")]
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


class Names(NamedTuple):
    """The names in a config file.

    assigned: those that get a value, with the line of the last assignment. Names of functions and classes of the file
              are their own: assigning them sets nothing
    declared: those that get a type but no value, as in `batch_size: 8`, with their line
    read:     those that the file reads
    """

    assigned: dict[str, int]
    declared: dict[str, int]
    read: set[str]


def names_of(tree: ast.Module) -> Names:
    """Return the names in a config file."""
    assigned = {node.id: node.lineno for node in _outside_of_scopes(tree) if isinstance(node.ctx, ast.Store)}
    declared, read = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            read.add(node.target.id)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            read.add(node.id)
    for node in tree.body:
        if _is_declaration(node) and isinstance(node.target, ast.Name) and node.target.id not in assigned:
            declared[node.target.id] = node.lineno
    return Names(assigned, declared, read)


def is_program(path: str) -> bool:
    """Return whether a path is that of a program of ours, which would read its own arguments again."""
    return Path(path).absolute() in PROGRAMS


def compiled(text: str, path: str) -> tuple[ast.Module, CodeType]:
    """Return the tree and the code of a config file. Raises SyntaxError.

    Its imports find the current folder's modules first. In an installed program, whose presets have no name of their
    own, `from config.x import *` finds a preset where the current folder has no such file.
    """
    tree = ast.parse(text)
    code = ast.parse(text)
    for node in ast.walk(code):
        if isinstance(node, ast.ImportFrom) and not node.level and PACKAGE and _is_preset(node.module or ""):
            node.module = f"{PACKAGE}{node.module}"
    return tree, compile(code, path, "exec")


@contextmanager
def importing_from_here() -> Iterator[None]:
    """Let imports look into the current folder first, also for a `config.x` that is not the one of this program."""
    here, before = os.getcwd(), set(sys.modules)
    hidden = _hide_our_package() if not PACKAGE and Path("config").is_dir() and Path(here) != TREE else {}
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with suppress(ValueError):  # the file may have removed it
            sys.path.remove(here)
        if hidden:
            _remove_package()
            sys.modules.update(hidden)
        for name in [name for name in sys.modules if name not in before and _is_users(name, here)]:
            del sys.modules[name]  # the next time it may be another file, or have changed


def _hide_our_package() -> dict[str, ModuleType]:
    """Put a package that has the user's modules, and then ours, in the place of `config`. Return what it hides."""
    hidden = _remove_package()
    package = ModuleType("config")
    package.__path__ = [str(Path("config").absolute()), str(TREE / "config")]
    sys.modules["config"] = package
    return hidden


def _remove_package() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.split(".")[0] == "config"]
    return {name: sys.modules.pop(name) for name in names}


def _is_users(name: str, here: str) -> bool:
    """Return whether a module is of the current folder and not a part of this program, or is a preset."""
    path = getattr(sys.modules[name], "__file__", None) or ""
    is_here = path.startswith(os.path.join(here, "")) and "site-packages" not in path
    return is_here and (name.startswith("config.") or not path.startswith(str(TREE)))


def _is_preset(module: str) -> bool:
    """Return whether a module is among our presets, and not in the current folder."""
    place = Path(*module.split("."))
    return not place.with_suffix(".py").exists() and (TREE / place.with_suffix(".py")).exists()


def runs_other_files(tree: ast.Module) -> bool:
    """Return whether a config file imports everything from a module, or executes another file."""
    return any(
        (isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names))
        or (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "exec")
        for node in ast.walk(tree)
    )


def _outside_of_scopes(node: ast.AST) -> Iterator[ast.Name]:
    """Yield the names in a file in the order of its lines, except those inside functions and classes."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Name):
            yield child
        elif not (isinstance(child, SCOPES) or _is_declaration(child)):
            yield from _outside_of_scopes(child)


def _is_declaration(node: ast.AST) -> TypeGuard[ast.AnnAssign]:
    return isinstance(node, ast.AnnAssign) and node.value is None
