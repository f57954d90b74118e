"""The options of the prepare_streaming.py scripts."""

from pathlib import Path

import pytest

from config.options import Options
from config.stream_options import StreamOptions, read_options
from configurator import Overrides
from core.errors import ConfigError

LEGACY = [  # options in training configs of the core line that StreamOptions does not have
    "out_dir", "eval_interval", "eval_iters", "wandb_log", "wandb_project", "n_layer", "n_embd", "dropout", "beta2",
    "composition_config", "mask_token_id", "model_mode", "training_type", "vocab_size", "position_encoding",
    "freeze_transformer", "init_from_checkpoint", "unfreeze_at_iteration", "num_token_classes", "use_guidance",
    "loss_modifiers_enabled", "mask_ratio_weight_enabled", "target_smoothing_factor", "data_wait_sleep_seconds",
    "data_wait_timeout_seconds", "eval_reset_val_stream", "sequence_variance_alpha", "weight_decay", "warmup_iters",
]  # fmt: skip


@pytest.mark.parametrize("name", sorted({*LEGACY, *Options.model_fields} - set(StreamOptions.model_fields)))
def test_no_training_option_counts_as_a_typo(name: str) -> None:
    assert Overrides(StreamOptions.defaults(), StreamOptions).misspelt(name) is None


def test_defaults_are_the_core_lines() -> None:
    options = read_options([])

    assert (options.batches_per_file, options.max_backlog_files, options.sleep_seconds) == (100, 2, 2.0)
    assert (options.seed, options.mask_probability, options.ignore_index) == (1337, 0.15, -100)
    assert (options.sticky_p1_probability, options.sticky_p2_probability, options.max_rounds) == (0.15, 0.5, 3)
    assert tuple(options.mask_probability_range) == (0.1, 0.8) and options.enable_line_aligned_sequences


def test_once_needs_no_value() -> None:
    assert read_options(["--once"]).once
    assert read_options(["--files=3"]).files == 3


def test_stages_and_ranges_come_from_files_and_flags(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("unmasking_stages = [{'type': 'random'}]\nmask_probability_range = (0.2, 0.3)\n")

    options = read_options([str(tmp_path / "x.py"), "--mode_distribution={'language_model': 1.0}"])

    assert options.unmasking_stages == [{"type": "random"}]
    assert tuple(options.mask_probability_range) == (0.2, 0.3)
    assert options.mode_distribution == {"language_model": 1.0}
    assert read_options(["--mask_probability_range=[0, 1]"]).mask_probability_range == [0.0, 1.0]


@pytest.mark.parametrize("text", ["(0.5, 0.1)", "(0.5,)", "[-1, 0.5]", "[0.5, 2]"])
def test_an_invalid_range_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="mask_probability_range"):
        read_options([f"--mask_probability_range={text}"])


def test_help_lists_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_options(["--help"])

    printed = capsys.readouterr().out
    assert all(f"--{name}=" in printed for name in StreamOptions.model_fields)


def test_the_text_comes_from_the_data_sets_folder_or_char_diffusion(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    assert read_options([]).source(folder) == tmp_path / "char_diffusion"
    assert read_options([f"--source_data_dir={folder}"]).source(tmp_path / "other") == folder
    with pytest.raises(ConfigError, match="^source_data_dir=there: there is no such folder"):
        read_options(["--source_data_dir=there"]).source(folder)
    (folder / "input.txt").touch()
    assert read_options([]).source(folder) == folder


def test_a_quiet_producer_gets_no_print_function() -> None:
    assert read_options([]).producer()["say"] is print
    assert "say" not in read_options(["--data_stream_verbose=False"]).producer()


def test_option_names_of_training_configs_are_accepted() -> None:
    options = read_options(["--unmasking_model_checkpoint=out-u", "--score_transform=True"])

    assert options.mlm_checkpoint_path == "out-u" and options.score_transform
    assert not read_options([]).score_transform
