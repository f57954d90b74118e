"""The architecture: imports between layers, sizes of files and functions, and the pages that quote the code."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.tiny_run import tiny_trainer

ROOT = Path(__file__).resolve().parent.parent
OURS = {"core", "config", "data", "extras", "loss_modifiers", "wiring", "tools", "benchmark", "tests"}
OURS |= {"coregpt", "model", "configurator", "train", "sample"}
SHARED = {"core.commands", "core.errors", "core.files", "core.losses"}  # what data and loss modifiers may use of core
MAY_IMPORT = {  # file or folder: the modules that it may import at run time, in addition to itself
    "core": set(),
    "core/errors.py": set(),
    "core/files.py": {"core.errors"},
    "core/losses.py": set(),
    "core/commands.py": set(),
    "model.py": {"core.commands", "core.errors"},
    "loss_modifiers": SHARED,
    "data": {*SHARED, "data"},  # not prepare_streaming.py
    "configurator.py": {
        "core.commands",
        "core.errors",
        "configurator",
        "config.foreign_systems",
        "config.mappings",
        "config.python_files",
        "config.spelling",
    },
    "config/foreign_systems.py": set(),
    "config/mappings.py": set(),
    "config/python_files.py": set(),
    "config/spelling.py": {"core.commands"},
    "config/schema.py": {"core.errors", "core.files"},
    "config/options.py": {"config.schema", "config.not_supported", "configurator"},
    "config/stream_options.py": {"config.schema", "configurator", "core.errors"},
    "extras": {"core", "data", "loss_modifiers", "model", "extras"},
    "wiring": {"core", "data", "loss_modifiers", "model", "extras", "config", "configurator", "wiring"},
}
ABOVE = ("tools", "coregpt")  # may import anything
THIRD_PARTY_IN_CORE = {"torch", "wandb", "safetensors"}  # the last two inside the one function that needs them


def sources(name: str) -> list[Path]:
    path = ROOT / name
    paths = [path] if path.is_file() else sorted(path.rglob("*.py"))
    # config folders of data sets contain presets
    return [path for path in paths if path.parent.name != "config" or path.parent.parent == ROOT]


def all_sources() -> list[Path]:
    names = ["core", "extras", "loss_modifiers", "data", "wiring"]
    names += ["config/options.py", "config/stream_options.py", "config/schema.py"]
    names += ["model.py", "configurator.py", "train.py", "sample.py", "tools", "coregpt", "setup.py"]
    return [path for name in names for path in sources(name)]


def imports(path: Path, running_only: bool = True) -> set[str]:
    """Return the modules that a file imports; with `running_only`, without those under `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text())
    if running_only:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
                node.body = [ast.Pass()]
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports here are absolute"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            modules |= {name if is_module(name) else node.module or "" for name in submodules}
    return modules


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]


def length(node: ast.FunctionDef) -> int:
    return (node.end_lineno or 0) - node.lineno + 1


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_layers_import_only_the_layers_that_they_may(layer: str) -> None:
    assert sources(layer), f"{layer} has no source file"
    for path in sources(layer):
        if path.name == "prepare_streaming.py":
            continue
        allowed = MAY_IMPORT[layer] | ({layer} if layer in ("core", "loss_modifiers") else set())
        for module in imports(path):
            if module.split(".")[0] in OURS:
                module_and_package = {module, module.split(".")[0]}
                assert module_and_package & allowed, f"{path.relative_to(ROOT)} must not import {module}"


def test_core_imports_only_torch_and_the_standard_library() -> None:
    for path in sources("core"):
        third_party = {module.split(".")[0] for module in imports(path)} - set(sys.stdlib_module_names) - {"core"}
        assert third_party <= THIRD_PARTY_IN_CORE, path


def test_importing_core_loads_no_optional_package() -> None:
    names = "{'wandb', 'safetensors', 'pydantic', 'yaml', 'transformers', 'tiktoken'}"
    code = f"import sys, core; print({names} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"


def test_only_the_wiring_and_the_programs_import_the_options() -> None:
    importers = {
        str(path.relative_to(ROOT))
        for path in all_sources()
        if "config.options" in imports(path, running_only=False) and path.relative_to(ROOT).parts[0] not in ABOVE
    }

    assert {name for name in importers if not name.startswith("wiring/")} == {"train.py", "sample.py"}


def test_there_are_no_circular_imports() -> None:
    """Imports inside functions count; imports under `if TYPE_CHECKING` do not. A package is its `__init__.py`."""
    names = {
        path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in all_sources()
    }
    reached = {names[path]: {m for m in imports(path) if m in names.values()} for path in names}
    for name in reached:
        seen, waiting = set(), list(reached[name])
        while waiting:
            module = waiting.pop()
            assert module != name, f"{name} imports itself through other modules"
            if module not in seen:
                seen.add(module)
                waiting += reached[module]


def test_folders_have_at_most_20_modules() -> None:
    folders = {path.parent for path in all_sources()}
    too_large = {
        str(folder.relative_to(ROOT)): count
        for folder in folders
        if (count := sum(path.name != "__init__.py" for path in folder.glob("*.py"))) > 20 and folder.name != "config"
    }

    assert too_large == {}


@pytest.mark.parametrize(("name", "max_lines"), [("train.py", 80), ("sample.py", 100)])
def test_the_programs_have_few_lines(name: str, max_lines: int) -> None:
    assert len((ROOT / name).read_text().splitlines()) <= max_lines


def test_wiring_trainer_and_programs_do_not_switch_the_formatter_off() -> None:
    for path in [ROOT / "train.py", ROOT / "sample.py", ROOT / "core" / "trainer.py", *sources("wiring")]:
        assert "fmt:" not in path.read_text(), path


def test_the_trainer_has_at_most_260_lines() -> None:
    tree = ast.parse((ROOT / "core" / "trainer.py").read_text())
    (trainer,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Trainer")

    assert (trainer.end_lineno or 0) - trainer.lineno + 1 <= 260


def test_the_trainer_has_at_most_22_attributes(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path)
    trainer.train()

    assert len(vars(trainer)) <= 22


def test_a_trainer_can_be_built_in_25_lines() -> None:
    lines = (ROOT / "tests" / "core" / "tiny_run.py").read_text().splitlines()
    code = [line for line in lines if line and not line.startswith(("import", "from", '"""'))]

    assert len(code) <= 25


def test_constructors_in_core_have_at_most_12_parameters() -> None:
    too_many = {}
    for path in sources("core"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                count = len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]) - 1
                if count > 12:
                    too_many[f"{path.name}:{node.lineno}"] = count

    assert too_many == {}


def test_the_training_loop_has_at_most_50_lines() -> None:
    loop = next(node for node in functions(ROOT / "core" / "trainer.py") if node.name == "train")

    assert length(loop) <= 50


def test_functions_have_at_most_50_lines() -> None:
    too_long = {
        f"{path.name}:{node.name}": length(node)
        for path in all_sources()
        for node in functions(path)
        if length(node) > 50 and path.relative_to(ROOT).parts[0] != "tools"
    }

    assert too_long == {}


def test_every_source_file_has_a_test_file_in_the_same_folder() -> None:
    missing = []
    for path in all_sources():
        folder = path.relative_to(ROOT).parent
        name = "init" if path.name == "__init__.py" else path.stem
        if path.name == "prepare.py":  # the tests of all data sets are in tests/data
            folder, name = Path("data"), f"prepare_{folder.name}"
        if path.name == "prepare_streaming.py":
            folder = Path("data", "streaming")
        only_a_docstring = len(ast.parse(path.read_text()).body) <= 1
        places = [ROOT / "tests" / folder, ROOT / "tests" / "hf" / folder]  # the latter imports transformers
        if not any((place / f"test_{name}.py").exists() for place in places) and not only_a_docstring:
            missing.append(str(path.relative_to(ROOT)))

    assert missing == []


def test_every_public_name_has_a_docstring() -> None:
    """A method that overrides a documented one needs none."""
    undocumented = []
    for path in all_sources():
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), f"{path} has no docstring"
        definitions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        undocumented += [f"{path.name}:{node.name}" for node in definitions if has_no_docstring(node)]
        for definition in definitions:
            if isinstance(definition, ast.ClassDef) and not definition.name.startswith("_"):
                methods = [
                    node for node in definition.body if isinstance(node, ast.FunctionDef) and has_no_docstring(node)
                ]
                inherited = documented_methods(path, definition.name) if methods else set()
                undocumented += [
                    f"{path.name}:{definition.name}.{node.name}" for node in methods if node.name not in inherited
                ]

    assert undocumented == []


def has_no_docstring(node: ast.FunctionDef | ast.ClassDef) -> bool:
    return not node.name.startswith("_") and not ast.get_docstring(node)


def documented_methods(path: Path, name: str) -> set[str]:
    """Return the names of the methods that have a docstring in a base class."""
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    bases = getattr(module, name).__mro__[1:]
    return {key for base in bases for key, value in vars(base).items() if getattr(value, "__doc__", None)}


def test_names_of_tests_are_short() -> None:
    too_long = [
        f"{path.name}:{node.name}"
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in functions(path)
        if node.name.startswith("test_") and len(node.name) > 70
    ]

    assert too_long == []


def test_the_readme_quotes_the_training_loop() -> None:
    loop = next(node for node in functions(ROOT / "core" / "trainer.py") if node.name == "train")
    lines = (ROOT / "core" / "trainer.py").read_text().splitlines()[loop.lineno - 1 : loop.end_lineno]
    quoted = "\n".join(line[4:] for line in lines)

    assert quoted in (ROOT / "README.md").read_text()


def test_the_readme_shows_the_tree_as_it_is() -> None:
    """A line is a name, or several, and after two spaces their meaning; what lies in a folder is indented."""
    tree = (ROOT / "README.md").read_text().split("## The tree\n\n```\n")[1].split("```")[0]
    folders, missing = [ROOT], []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        if depth > 3:
            continue  # the meaning goes on
        for name in line.strip().split("  ")[0].split():
            place = folders[depth] / name
            missing += [] if "*" in name or "<" in name or place.exists() else [str(place.relative_to(ROOT))]
            folders[depth + 1 :] = [place]

    assert missing == [] and len(tree.splitlines()) > 100


@pytest.mark.parametrize("name", ["CHECKPOINT", "POSITION", "MANIFEST"])
def test_the_page_on_checkpoints_quotes_their_layout(name: str) -> None:
    source = (ROOT / "core" / "checkpoint" / "format.py").read_text()
    (layout,) = (
        node for node in ast.parse(source).body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name
    )
    quoted = "\n".join(source.splitlines()[layout.lineno - 1 : layout.end_lineno])

    assert f"```python\n{quoted}\n```" in (ROOT / "docs" / "checkpoint-format.md").read_text()
