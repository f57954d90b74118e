"""The presets: nanoGPT's seven with nanoGPT's values, and the three forms of a configuration."""

import ast
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from config.options import Options
from configurator import configure

NO_PRESETS = (
    "__init__",
    "mappings",
    "foreign_systems",
    "not_supported",
    "options",
    "python_files",
    "schema",
    "spelling",
    "stream_options",
)
PRESETS = sorted(path for path in (Path(__file__).parents[2] / "config").iterdir()
                 if path.suffix in (".py", ".yaml") and path.stem not in NO_PRESETS)  # fmt: skip
EVALUATION = dict(batch_size=8, eval_iters=500, eval_only=True)
NANOGPT = {
    "train_gpt2": dict(
        wandb_log=True, wandb_run_name="gpt2-124M", eval_interval=1000, log_interval=10,
    ),  # its other values are defaults
    "train_shakespeare_char": dict(
        out_dir="out-shakespeare-char", eval_interval=250, log_interval=10, always_save_checkpoint=False,
        wandb_project="shakespeare-char", wandb_run_name="mini-gpt", dataset="shakespeare_char",
        gradient_accumulation_steps=1, batch_size=64, block_size=256, n_layer=6, n_head=6, n_embd=384, dropout=0.2,
        learning_rate=1e-3, max_iters=5000, lr_decay_iters=5000, min_lr=1e-4, beta2=0.99, warmup_iters=100,
    ),
    "finetune_shakespeare": dict(
        out_dir="out-shakespeare", eval_interval=5, eval_iters=40, wandb_project="shakespeare", dataset="shakespeare",
        init_from="gpt2-xl", always_save_checkpoint=False, batch_size=1, gradient_accumulation_steps=32, max_iters=20,
        learning_rate=3e-5, decay_lr=False,
    ),
    "eval_gpt2": dict(EVALUATION, init_from="gpt2"),
    "eval_gpt2_medium": dict(EVALUATION, init_from="gpt2-medium"),
    "eval_gpt2_large": dict(EVALUATION, init_from="gpt2-large"),
    "eval_gpt2_xl": dict(EVALUATION, init_from="gpt2-xl"),
}  # fmt: skip
# values that a preset sets although they are defaults: a changed default must not change the preset
SET_TO_DEFAULTS = {
    "train_gpt2": "wandb_log wandb_project wandb_run_name batch_size block_size gradient_accumulation_steps max_iters "
    "lr_decay_iters eval_interval eval_iters log_interval weight_decay",
    "train_shakespeare_char": "eval_iters wandb_log",
    "finetune_shakespeare": "wandb_log",
    "eval_gpt2": "wandb_log",
    "eval_gpt2_medium": "wandb_log",
    "eval_gpt2_large": "wandb_log",
    "eval_gpt2_xl": "wandb_log",
}


def preset(name: str) -> Path:
    return next(path for path in PRESETS if path.stem == name)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.name)
def test_every_preset_loads(path: Path) -> None:
    assert configure(Options, [str(path)]) != Options()


@pytest.mark.parametrize("name", NANOGPT)
def test_nanogpts_presets_have_its_values(name: str) -> None:
    options = configure(Options, [str(preset(name))])
    changed = options.changed(*Options.model_fields)

    if name == "finetune_shakespeare":
        kind, _, seconds = changed.pop("wandb_run_name").partition("-")
        assert kind == "ft" and float(seconds) > 1e9  # start time
    assert changed == NANOGPT[name]


@pytest.mark.parametrize("name", SET_TO_DEFAULTS)
def test_presets_set_the_same_names_as_nanogpts(name: str) -> None:
    tree = ast.parse(preset(name).read_text())
    assigned = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}

    assert set(SET_TO_DEFAULTS[name].split()) <= assigned
    assert assigned - set(SET_TO_DEFAULTS[name].split()) - {"wandb_run_name"} <= set(NANOGPT[name])


def test_the_quickstart_needs_neither_gpu_nor_compiler() -> None:
    options = configure(Options, [str(preset("quickstart"))])

    assert options.device == "cpu" and not options.compile and not options.wandb_log
    assert options.dataset == "python_stdlib" and options.init_from == "scratch"
    assert options.max_iters % options.eval_interval == 0  # the last iteration is evaluated and saved


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.name)
def test_every_preset_loads_back_from_the_file_it_is_saved_to(path: Path, tmp_path: Path) -> None:
    options, saved = configure(Options, [str(path)]), tmp_path / "config.yaml"
    options.save(saved)
    loaded = configure(Options, [str(saved)])

    assert loaded == options and loaded.model_fields_set == options.model_fields_set
    assert not [line for line in saved.read_text().splitlines() if line.startswith("#")]  # no value is left out


def equal_bits(ours: Any, theirs: Any) -> bool:
    """Return True if nested values are equal bit for bit."""
    if isinstance(ours, torch.Tensor):
        return ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return list(ours) == list(theirs) and all(equal_bits(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(equal_bits, ours, theirs))
    return bool(ours == theirs)


def test_python_yaml_and_flags_give_the_same_bits(run_dir: Path, tiny_argv: list[str]) -> None:
    pairs = [argument.removeprefix("--").split("=") for argument in tiny_argv]
    pairs = [(key, {"max_iters": "3"}.get(key, value)) for key, value in pairs]
    quoted = {"dataset", "device"}
    Path("x.py").write_text("".join(f"{k} = {v!r}\n" if k in quoted else f"{k} = {v}\n" for k, v in pairs))
    sections = Options.sections()
    yaml = "".join(
        f"{heading}:\n" + "".join(f"  {key}: {value}\n" for key, value in pairs if key in sections[heading])
        for heading in {heading: None for key, _ in pairs for heading in sections if key in sections[heading]}
    )
    Path("x.yaml").write_text(yaml)
    argvs = {"py": ["x.py"], "yaml": ["x.yaml"], "flags": [f"--{key}={value}" for key, value in pairs]}

    saved = []
    for form, argv in argvs.items():
        train.main([*argv, f"--out_dir={form}"])
        checkpoint = torch.load(f"{form}/ckpt.pt", weights_only=True)
        assert checkpoint["config"].pop("out_dir") == form and checkpoint["iter_num"] == 3
        # the id of the run; byte counts, which depend on times
        assert checkpoint.pop("run") and checkpoint.pop("loggers")
        saved.append(checkpoint)

    assert equal_bits(saved[0], saved[1]) and equal_bits(saved[0], saved[2])
    saved[1]["optimizer"]["state"][0]["exp_avg"][0, 0] += 1e-9
    assert not equal_bits(saved[0], saved[1])  # the comparison detects the last bit
