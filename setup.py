"""
Builds the wheel: the package `coregpt`, with the rest of the checkout inside it as `coregpt._tree`.

The checkout's folders and programs import each other by their plain names (`from core import Trainer`). Installed under
these names they would stand in the way of everybody's own `data` or `model`, so the copies in the wheel import each
other from `coregpt._tree`. An editable install is the checkout itself, unchanged.
"""

import ast
import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
TREE = "coregpt._tree"
FOLDERS = ("config", "core", "data", "extras", "loss_modifiers", "tools", "wiring")
PROGRAMS = ("configurator.py", "model.py", "sample.py", "train.py")
ENDINGS = (".py", ".yaml", ".json", ".toml")  # of modules and presets; prepared data sets stay where they are
NAMES = {*FOLDERS, *(Path(name).stem for name in PROGRAMS)}


def tree_files() -> list[Path]:
    """Return the files of the tree, by their paths in the checkout."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in ENDINGS]
    return sorted(path.relative_to(ROOT) for path in [*found, *(ROOT / name for name in PROGRAMS)])


def moved(source: str, where: str) -> str:
    """Return a module's source with the imports that it needs inside `coregpt._tree`. where: for errors"""
    lines, tree = source.splitlines(keepends=True), ast.parse(source)
    for node in tree.body:
        if isinstance(node, ast.Expr) and ast.unparse(node).startswith("sys.path.insert("):
            lines[node.lineno - 1] = "\n"  # of a script that is run by its path, which it cannot be here
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            ours = [alias.name for alias in node.names if alias.name.partition(".")[0] in NAMES]
            if ours and (len(node.names) > 1 or "." in ours[0]):
                raise ValueError(
                    f"{where}:{node.lineno}: write `import {ours[0].partition('.')[0]}` on a line of its own"
                )
            if ours:
                _change(lines, node.lineno, r"import\s+", f"from {TREE} import ")
        elif isinstance(node, ast.ImportFrom) and not node.level and str(node.module).partition(".")[0] in NAMES:
            _change(lines, node.lineno, r"from\s+", f"from {TREE}.")
    return "".join(lines)


def _change(lines: list[str], number: int, pattern: str, new: str) -> None:
    lines[number - 1] = re.sub(pattern, new, lines[number - 1], count=1)


class BuildWithTree(build_py):
    """Copies `coregpt` and the tree; what an earlier build has left is removed first."""

    def run(self) -> None:
        if self.editable_mode:
            super().run()
            return
        package = Path(self.build_lib, "coregpt")
        shutil.rmtree(package, ignore_errors=True)
        super().run()
        for path in [*(path.relative_to(ROOT) for path in (ROOT / "coregpt").glob("*.py")), *tree_files()]:
            target = package / "_tree" / path if path.parts[0] != "coregpt" else Path(self.build_lib, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            text = (ROOT / path).read_text(encoding="utf-8")
            target.write_text(moved(text, str(path)) if path.suffix == ".py" else text, encoding="utf-8")
        (package / "_tree" / "__init__.py").write_text('"""The checkout that this package was built from."""\n')

    def get_source_files(self) -> list[str]:
        """Return what an sdist needs."""
        return [*super().get_source_files(), *map(str, tree_files())]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Return what `run` writes."""
        inside = (
            [] if self.editable_mode else [str(Path(self.build_lib, "coregpt", "_tree", path)) for path in tree_files()]
        )
        return [*super().get_outputs(include_bytecode), *inside]


if __name__ == "__main__":
    setup(cmdclass={"build_py": BuildWithTree})
