"""The shape of the house: layers, sizes, and the pages that quote the code."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.tiny_run import tiny_trainer

ROOT = Path(__file__).resolve().parent.parent
OURS = {"core", "config", "data", "extras", "loss_modifiers", "wiring", "tools", "benchmark", "tests"}
OURS |= {"model", "configurator", "train", "sample"}
SHARED = {"core.errors", "core.files", "core.losses"}  # what data and loss modifiers may use of core
MAY_IMPORT = {  # beside itself; a file or folder, and what it may reach in running code
    "core": set(),
    "core/errors.py": set(),
    "core/files.py": {"core.errors"},
    "core/losses.py": set(),
    "model.py": {"core.errors"},
    "loss_modifiers": SHARED,
    "data": {*SHARED, "data"},  # not prepare_streaming.py
    "configurator.py": {"core.errors", "configurator"},
    "config/schema.py": set(),
    "config/options.py": {"config.schema", "config.not_supported", "configurator"},
    "config/stream_options.py": {"config.schema", "configurator", "core.errors"},
    "extras": {"core", "data", "loss_modifiers", "model", "extras"},
    "wiring": {"core", "data", "loss_modifiers", "model", "extras", "config", "wiring"},
}
THIRD_PARTY_IN_CORE = {"torch", "wandb"}  # wandb inside the one method that needs it


def sources(place: str) -> list[Path]:
    path = ROOT / place
    found = [path] if path.is_file() else sorted(path.rglob("*.py"))
    return [path for path in found if path.parent.name != "config" or path.parent.parent == ROOT]  # data's are presets


def all_sources() -> list[Path]:
    places = ["core", "extras", "loss_modifiers", "data", "wiring"]
    places += ["config/options.py", "config/stream_options.py", "config/schema.py"]
    places += ["model.py", "configurator.py", "train.py", "sample.py", "tools"]
    return [path for place in places for path in sources(place)]


def imports(path: Path, running_only: bool = True) -> set[str]:
    """Return the modules a file imports; those under `if TYPE_CHECKING` only on request."""
    tree = ast.parse(path.read_text())
    if running_only:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
                node.body = [ast.Pass()]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports here are absolute"
            found.add(node.module or "")
    return found


def functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]


def length(node: ast.FunctionDef) -> int:
    return (node.end_lineno or 0) - node.lineno + 1


@pytest.mark.parametrize("place", MAY_IMPORT)
def test_imports_go_downwards(place: str) -> None:
    for path in sources(place):
        if path.name == "prepare_streaming.py":
            continue
        allowed = MAY_IMPORT[place] | ({place} if place in ("core", "loss_modifiers") else set())
        for module in imports(path):
            if module.split(".")[0] in OURS:
                reached = {module, module.split(".")[0]}
                assert reached & allowed, f"{path.relative_to(ROOT)} must not import {module}"


def test_core_imports_torch_and_the_standard_library_alone() -> None:
    for path in sources("core"):
        foreign = {module.split(".")[0] for module in imports(path)} - set(sys.stdlib_module_names) - {"core"}
        assert foreign <= THIRD_PARTY_IN_CORE, path


def test_importing_core_loads_no_optional_package() -> None:
    code = "import sys, core; print({'wandb', 'pydantic', 'yaml', 'transformers', 'tiktoken'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"


def test_only_the_wiring_sees_the_options_object() -> None:
    seen = {
        str(path.relative_to(ROOT))
        for path in all_sources()
        if "config.options" in imports(path, running_only=False) and not str(path).startswith(str(ROOT / "tools"))
    }

    assert {name for name in seen if not name.startswith("wiring/")} == {"train.py", "sample.py"}


def test_no_module_of_core_is_imported_in_a_circle() -> None:
    """Imports inside functions count; those for types alone, such as of the trainer in callbacks, do not."""
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in all_sources()}
    reached = {names[path]: {m for m in imports(path) if m in names.values()} for path in names}
    for name in reached:
        seen, waiting = set(), list(reached[name])
        while waiting:
            module = waiting.pop()
            assert module != name, f"{name} imports itself by way of others"
            if module not in seen:
                seen.add(module)
                waiting += reached[module]


def test_a_folder_is_a_room_that_can_be_looked_over() -> None:
    folders = {path.parent for path in all_sources()}
    crowded = {
        str(folder.relative_to(ROOT)): count
        for folder in folders
        if (count := sum(path.name != "__init__.py" for path in folder.glob("*.py"))) > 20 and folder.name != "config"
    }

    assert crowded == {}


@pytest.mark.parametrize(("name", "most"), [("train.py", 80), ("sample.py", 100)])
def test_a_program_fits_on_a_screen(name: str, most: int) -> None:
    assert len((ROOT / name).read_text().splitlines()) <= most


def test_the_wiring_is_formatted_like_the_rest() -> None:
    for path in [ROOT / "train.py", ROOT / "sample.py", ROOT / "core" / "trainer.py", *sources("wiring")]:
        assert "fmt:" not in path.read_text(), path


def test_the_trainer_has_one_job() -> None:
    tree = ast.parse((ROOT / "core" / "trainer.py").read_text())
    (trainer,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Trainer")

    assert (trainer.end_lineno or 0) - trainer.lineno + 1 <= 260


def test_the_trainer_has_few_attributes(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path)
    trainer.train()

    assert len(vars(trainer)) <= 22


def test_a_trainer_of_real_parts_is_made_in_a_few_lines() -> None:
    lines = (ROOT / "tests" / "core" / "tiny_run.py").read_text().splitlines()
    code = [line for line in lines if line and not line.startswith(("import", "from", '"""'))]

    assert len(code) <= 25


def test_constructors_in_core_take_few_parameters() -> None:
    many = {}
    for path in sources("core"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                count = len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]) - 1
                if count > 12:
                    many[f"{path.name}:{node.lineno}"] = count

    assert many == {}


def test_the_training_loop_fits_on_a_screen() -> None:
    loop = next(node for node in functions(ROOT / "core" / "trainer.py") if node.name == "train")

    assert length(loop) <= 50


def test_no_function_is_longer_than_a_screen() -> None:
    long = {
        f"{path.name}:{node.name}": length(node)
        for path in all_sources()
        for node in functions(path)
        if length(node) > 50 and path.relative_to(ROOT).parts[0] != "tools"
    }

    assert long == {}


def test_every_source_file_has_a_test_file_in_the_same_place() -> None:
    missing = []
    for path in all_sources():
        place = path.relative_to(ROOT).parent
        name = "init" if path.name == "__init__.py" else path.stem
        if path.name == "prepare.py":  # those of the data sets lie together
            place, name = Path("data"), f"prepare_{place.name}"
        if path.name == "prepare_streaming.py":
            place = Path("data", "streaming")
        only_a_docstring = len(ast.parse(path.read_text()).body) <= 1
        if not (ROOT / "tests" / place / f"test_{name}.py").exists() and not only_a_docstring:
            missing.append(str(path.relative_to(ROOT)))

    assert missing == []


def test_every_public_name_has_a_docstring() -> None:
    """A method that overrides a documented one needs none."""
    bare = []
    for path in all_sources():
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), f"{path} does not say what it is"
        tops = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        bare += [f"{path.name}:{node.name}" for node in tops if is_bare(node)]
        for top in tops:
            if isinstance(top, ast.ClassDef) and not top.name.startswith("_"):
                methods = [node for node in top.body if isinstance(node, ast.FunctionDef) and is_bare(node)]
                inherited = documented(path, top.name) if methods else set()
                bare += [f"{path.name}:{top.name}.{node.name}" for node in methods if node.name not in inherited]

    assert bare == []


def is_bare(node: ast.FunctionDef | ast.ClassDef) -> bool:
    return not node.name.startswith("_") and not ast.get_docstring(node)


def documented(path: Path, name: str) -> set[str]:
    """Return the methods that the bases of a class document."""
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    bases = getattr(module, name).__mro__[1:]
    return {key for base in bases for key, value in vars(base).items() if getattr(value, "__doc__", None)}


def test_names_of_tests_are_short() -> None:
    long = [
        f"{path.name}:{node.name}"
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in functions(path)
        if node.name.startswith("test_") and len(node.name) > 70
    ]

    assert long == []


def test_the_readme_quotes_the_loop_as_it_is() -> None:
    loop = next(node for node in functions(ROOT / "core" / "trainer.py") if node.name == "train")
    lines = (ROOT / "core" / "trainer.py").read_text().splitlines()[loop.lineno - 1 : loop.end_lineno]
    quoted = "\n".join(line[4:] for line in lines)

    assert quoted in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", ["CHECKPOINT", "POSITION", "MANIFEST"])
def test_the_page_on_checkpoints_quotes_their_layout(name: str) -> None:
    source = (ROOT / "core" / "checkpoint" / "format.py").read_text()
    (layout,) = (
        node for node in ast.parse(source).body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name
    )
    quoted = "\n".join(source.splitlines()[layout.lineno - 1 : layout.end_lineno])

    assert f"```python\n{quoted}\n```" in (ROOT / "docs" / "checkpoint-format.md").read_text()
