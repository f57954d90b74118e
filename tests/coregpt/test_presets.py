"""Presets by name: which there are, and which file a word means."""

import re
from pathlib import Path

import pytest

from core.errors import ConfigError
from coregpt.presets import find, main, presets, with_presets


def test_presets_are_the_configs_but_not_the_modules_beside_them() -> None:
    known = presets()

    assert {"quickstart", "train_gpt2", "base_train_run", "shkspr_char_diff/optimal"} <= known.keys()
    assert not {"options", "schema", "__init__", "mappings", "python_files"} & known.keys()


def test_a_file_of_the_current_folder_comes_before_a_preset(run_dir: Path) -> None:
    assert find("quickstart") == find("config/quickstart.py") == str(presets()["quickstart"])
    Path("config").mkdir()
    Path("config/quickstart.py").write_text("n_layer = 1\n")

    assert find("quickstart") == find("config/quickstart.py") == "config/quickstart.py"
    Path("quickstart").touch()
    assert find("quickstart") == "quickstart"


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("quickstrt", "did you mean quickstart?"),
        ("optimal", "did you mean shkspr_char_diff/optimal?"),
        ("xyzzy", " ("),
    ],
)
def test_an_unknown_preset_is_an_error_with_a_near_name(run_dir: Path, word: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(hint)):
        find(word)


def test_a_file_without_its_ending_and_a_small_false_are_explained(run_dir: Path) -> None:
    Path("mine.py").touch()
    with pytest.raises(ConfigError, match="did you mean mine.py"):
        find("mine")
    with pytest.raises(ConfigError, match="^false: wanted True or False after an option"):
        find("false")


def test_other_programs_take_presets_among_their_words(run_dir: Path) -> None:
    path = str(presets()["quickstart"])

    assert with_presets(["--out", "x", "quickstart", "config/quickstart.py"]) == ["--out", "x", path, path]


def test_a_path_that_does_not_exist_is_left_to_the_options(run_dir: Path) -> None:
    assert find("mine.py") == "mine.py" and find("x.yaml") == "x.yaml"


def test_the_list_has_an_entry_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])
    lines = capsys.readouterr().out.splitlines()

    entries = [line.split()[0] for line in lines if line and line[0] not in " t"]
    assert sorted(entries) == sorted(name for name in presets() if name[0] != "t") and max(map(len, lines)) <= 100
    assert lines.index("to build on, in a config file of your own:") < len(lines) - 1
    assert any(line.startswith("quickstart ") and "character-level model" in line for line in lines)
    with pytest.raises(ConfigError, match="^presets x: wanted no argument"):
        main(["x"])
