"""The shape of the house: layers, sizes, and the pages that quote the code."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = {"core", "config", "data", "extras", "loss_modifiers", "tools", "benchmark", "tests"}
OURS |= {"model", "configurator", "train", "sample"}
MAY_IMPORT = {  # beside itself; a file or folder, and what it may reach in running code
    "core": set(),
    "model.py": {"core.errors"},
    "loss_modifiers": {"core.errors", "core.files", "core.losses"},
    "data": {
        "core.errors",
        "core.files",
        "core.losses",
        "data",
    },  # its prepare_streaming.py are programs, and may import more
    "configurator.py": {"core.errors", "configurator"},
    "config/schema.py": set(),
    "config/options.py": {"config.schema", "config.not_supported", "configurator"},
    "config/stream_options.py": {"config.schema", "configurator", "core.errors"},
    "extras": {"core", "data", "loss_modifiers", "model", "extras"},
}
THIRD_PARTY_IN_CORE = {"torch", "wandb"}  # wandb inside the one method that needs it


def sources(place: str) -> list[Path]:
    path = ROOT / place
    found = [path] if path.is_file() else sorted(path.rglob("*.py"))
    return [path for path in found if path.parent.name != "config" or path.parent.parent == ROOT]  # data's are presets


def all_sources() -> list[Path]:
    places = ["core", "extras", "loss_modifiers", "data"]
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
        home = {place.removesuffix(".py").replace("/", "."), path.relative_to(ROOT).parts[0]}
        allowed = MAY_IMPORT[place] | (home if place in ("core", "loss_modifiers") else set())
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

    wiring = {f"extras/{name}.py" for name in ("__init__", "tasks", "sources", "modifiers")}
    assert seen == {"train.py", "sample.py", *wiring}


def test_train_py_fits_on_a_screen() -> None:
    assert len((ROOT / "train.py").read_text().splitlines()) <= 115


def test_the_training_loop_fits_on_a_screen() -> None:
    loop = next(node for node in functions(ROOT / "core" / "trainer.py") if node.name == "train")

    assert length(loop) <= 50


def test_no_function_is_longer_than_a_screen() -> None:
    long = {
        f"{path.name}:{node.name}": length(node)
        for path in all_sources()
        for node in functions(path)
        if length(node) > 60
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
    bare = []
    for path in all_sources():
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), f"{path} does not say what it is"
        tops = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        methods = [
            node
            for top in tops
            if isinstance(top, ast.ClassDef) and not top.name.startswith("_")
            for node in top.body
            if isinstance(node, ast.FunctionDef)
        ]
        bare += [
            f"{path.name}:{node.name}"
            for node in [*tops, *methods]
            if not node.name.startswith("_") and not ast.get_docstring(node)
        ]

    assert bare == []


def test_the_readme_quotes_the_loop_as_it_is() -> None:
    loop = next(node for node in functions(ROOT / "core" / "trainer.py") if node.name == "train")
    lines = (ROOT / "core" / "trainer.py").read_text().splitlines()[loop.lineno - 1 : loop.end_lineno]
    quoted = "\n".join(line[4:] for line in lines)

    assert quoted in (ROOT / "README.md").read_text()
