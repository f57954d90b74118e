"""The example of a callbacks file, attached by its option."""

import re
from pathlib import Path

import pytest

import train

EXAMPLE = Path(__file__).parents[2] / "examples" / "callbacks_file.py"


def test_the_example_reports_each_epoch(
    run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*tiny_argv, "--batch_size=64", f"--callbacks_file={EXAMPLE}"]  # 2048 tokens of 2000 per update
    train.main([*argv, "--max_iters=1"])

    lines = re.findall(r"epoch .*", capsys.readouterr().err)
    assert [line for line in lines if "begins" in line] == ["epoch 0 begins", "epoch 1 begins"]
    assert re.fullmatch(r"epoch 1: mean loss \d\.\d{4} of 1 updates", lines[-1])


def test_the_example_ends_the_run_at_its_target(
    run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path("easy.py")
    file.write_text(EXAMPLE.read_text().replace("target=1.5", "target=100.0"))
    train.main([*tiny_argv, f"--callbacks_file={file}"])

    assert "stopping after iteration 0: EpochReport.should_stop is true\n" in capsys.readouterr().err
