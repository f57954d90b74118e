"""What makes a shell complete commands, presets and options."""

import subprocess
import sys

import pytest

from core.errors import ConfigError
from coregpt.completion import SHELLS, main


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


def test_without_the_package_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)

    with pytest.raises(ConfigError, match="^completion needs shtab: pip install shtab$"):
        main(["bash"])
