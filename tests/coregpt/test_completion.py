"""What makes a shell complete commands, presets and options."""

import io
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from core.errors import ConfigError
from coregpt.completion import SHELLS, main


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shell") / "completion.bash"
    with redirect_stdout(io.StringIO()) as text, pytest.raises(SystemExit):
        main(["bash"])
    path.write_text(text.getvalue())
    return path


@pytest.mark.parametrize("shell", SHELLS)
def test_commands_presets_and_options_are_completed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([shell])
    script = capsys.readouterr().out

    words = ["masking_report", "quickstart", "n_layer", "max_new_tokens", "bidirectional"]
    assert [word for word in words if word not in script] == []


def test_bash_takes_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bash"])
    script = capsys.readouterr().out

    assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("tr", {"train"}),
        ("train quicks", {"quickstart"}),
        ("train mi", {"mine.py"}),
        ("train mine.py --dty", {"--dtype"}),
        ("train --dtype b", {"bfloat16"}),
        ("train --dtype = b", {"bfloat16"}),  # as readline splits --dtype=b
        ("train --dtype =", {"float32", "bfloat16", "float16"}),
        ("train mine.py --dtype = float32 --compile = T", {"True"}),
        ("train --dtype = float32 quicks", {"quickstart"}),
        ("train --out_dir = q", set()),  # no folder begins so
        ("train --out_dir = o", {"out-old"}),
        ("train --callbacks_file = mi", {"mine.py"}),
        ("sample --checkpoint = mi", {"mine.py"}),
        ("curve out", {"out-old"}),
        ("prepare python", {"python_stdlib"}),
    ],
)
def test_bash_completes(typed: str, expected: set[str], bash_script: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").touch()
    (tmp_path / "out-old").mkdir()
    words = "coregpt " + typed
    call = (
        f'COMP_WORDS=({words}); COMP_CWORD=$(({len(words.split())} - 1)); _coregpt; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    found = subprocess.run(
        ["bash"], input=f"source {bash_script}\n{call}", text=True, capture_output=True, cwd=tmp_path
    )

    assert set(found.stdout.split()) == expected


def test_zsh_takes_values_after_an_equals_sign(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["zsh"])
    script = capsys.readouterr().out

    assert '"--dtype=[' in script and '"--out_dir=[' in script and '"--version[' in script


def test_without_the_package_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)

    with pytest.raises(ConfigError, match="^completion needs shtab: pip install shtab$"):
        main(["bash"])
