"""A fork's model.py in place of ours: the fields of its GPTConfig are options, and what does not fit is refused."""

import dataclasses
import enum
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import core
import model as our_model
import sample
import train
import wiring.architecture
from config.options import Options, SampleOptions
from config.schema import default_text, wanted
from configurator import configure
from core import ConfigError
from model import GPT
from tests.comparing import assert_same
from wiring.architecture import REPLACED, knowing_model_fields, load_architecture, with_model_fields

# nanoGPT's fields, whose names and defaults are part of the interface
NANO_DEFAULTS = {"block_size": 1024, "vocab_size": 50304, "n_layer": 12, "n_head": 12, "n_embd": 768}
NanoConfig: Any = dataclasses.make_dataclass(
    "NanoConfig",
    [(name, int, default) for name, default in NANO_DEFAULTS.items()] + [("dropout", float, 0.0), ("bias", bool, True)],
)


@dataclasses.dataclass
class ForkConfig(NanoConfig):
    """Fields of a fork: its own, the meaning of an alias and of a refused switch, and names of other options."""

    use_flash: bool = True
    n_kv_head: int = None  # type: ignore[assignment]
    norm: str = "rms"
    windows: list[int] = dataclasses.field(default_factory=lambda: [4, 8])
    use_rope: bool = True
    lora_rank: int = 8
    use_lora_attn: bool = False
    position_encoding: str = "alibi"
    mode: str = "train"
    batch_size: int = 1
    compile: str = "max"


class ForkGPT(GPT):
    """Our GPT under another config class."""

    seen: list[Any] = []

    def __init__(self, config: Any) -> None:
        self.seen.append(dataclasses.replace(config))
        known = {name: getattr(config, name) for name in (*core.model_initializer.SHAPE_ARGS, "dropout")}
        super().__init__(our_model.GPTConfig(**known))
        vars(config).update({**vars(self.config), **vars(config)})  # what our forward pass reads
        self.config = config


def use(monkeypatch: pytest.MonkeyPatch, config_class: Any, model_class: Any = ForkGPT) -> None:
    """Put a fork's model.py in place of ours."""
    module = ModuleType("model")
    module.__file__ = "/fork/model.py"
    module.GPT, module.GPTConfig = model_class, config_class  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "model", module)
    ForkGPT.seen.clear()


@pytest.fixture
def fork(monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> None:
    use(monkeypatch, ForkConfig)


@dataclasses.dataclass
class MadeFromOurs(our_model.GPTConfig):
    """Our model.py with two more fields."""

    n_kv_head: int = 4
    mixture: bool = False


# options


def test_our_own_and_nanogpts_model_add_no_option(monkeypatch: pytest.MonkeyPatch) -> None:
    for config_class in (our_model.GPTConfig, NanoConfig):
        use(monkeypatch, config_class)
        assert with_model_fields(Options).model_fields.keys() == Options.model_fields.keys()
        assert knowing_model_fields(SampleOptions) is SampleOptions


def test_help_leaves_out_what_a_model_lacks(monkeypatch: pytest.MonkeyPatch, fork: None) -> None:
    listed = {}
    for config_class in (our_model.GPTConfig, NanoConfig, ForkConfig):
        use(monkeypatch, config_class)
        listed[config_class] = set(re.findall(r"--(\w+)=", with_model_fields(Options).help()))

    assert listed[our_model.GPTConfig] == Options.model_fields.keys()
    assert Options.model_fields.keys() - listed[NanoConfig] == set(REPLACED)
    assert Options.model_fields.keys() - listed[ForkConfig] == {"attention_type", "attention", "activation"}


def test_a_forks_fields_are_typed_options_and_listed_by_help(fork: None) -> None:
    schema = with_model_fields(Options)
    listed = {
        name: (default_text(schema.model_fields[name]), wanted(schema.model_fields[name])) for name in schema.FROM_MODEL
    }

    assert listed == {
        "use_flash": ("True", "bool"), "n_kv_head": ("None", "int or None"), "norm": ("rms", "str"),
        "windows": ("[4, 8]", "list of ints"), "use_rope": ("True", "bool"), "lora_rank": ("8", "int"),
        "use_lora_attn": ("False", "bool"), "position_encoding": ("alibi", "str"),
        "mode": ("train", "str"),
    }  # fmt: skip
    assert "  --use_flash=True  [bool]\n      field of GPTConfig in model.py" in schema.help(["model"])
    assert "use_flash" not in Options.help() and Options.ALIASES["use_rope"][0] == "position_encoding"


def test_a_forks_options_come_from_flags_and_files(fork: None, capsys: pytest.CaptureFixture[str]) -> None:
    Path("x.py").write_text("use_flash = False\nuse_moe = True\nrun_tag = 'a'\nwindows = (3,)\n")
    Path("x.yaml").write_text("model:\n  norm: layer\nn_kv_head: 2\n")
    options: Any = configure(with_model_fields(Options), ["x.py", "x.yaml", "--use_rope=False", "--model.lora_rank=4"])

    assert (options.use_flash, options.windows, options.norm, options.n_kv_head) == (False, [3], "layer", 2)
    assert (options.use_rope, options.lora_rank, options.position_encoding) == (False, 4, "alibi")
    assert capsys.readouterr().err == "x.py: these set nothing here: use_moe, run_tag\n"
    for flag, wanted_value in (("--n_kv_head=a", "int or None"), ("--use_flsh=1", "did you mean 'use_flash'")):
        with pytest.raises(ConfigError, match=wanted_value):
            configure(with_model_fields(Options), [flag])


def test_a_field_of_a_type_that_no_option_has_is_named(monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> None:
    kind = enum.Enum("Kind", ["FLASH", "PLAIN"])  # type: ignore[misc]
    use(monkeypatch, dataclasses.make_dataclass("WithEnum", [("kernel", kind, kind.FLASH)], bases=(NanoConfig,)))

    with pytest.raises(ConfigError, match="^--kernel=PLAIN: kernel is a field of GPTConfig in model.py whose type no "):
        configure(with_model_fields(Options), ["--kernel=PLAIN"])
    with pytest.raises(ConfigError, match="^--kernl=PLAIN: unknown option 'kernl'"):
        configure(with_model_fields(Options), ["--kernl=PLAIN"])


def test_a_field_without_a_default_is_needed_by_a_new_model(
    monkeypatch: pytest.MonkeyPatch, run_dir: Path, tiny_argv: list[str]
) -> None:
    fields = [("n_kv_head", int, dataclasses.field(kw_only=True))]
    use(monkeypatch, dataclasses.make_dataclass("Needs", fields, bases=(NanoConfig,)))

    with pytest.raises(
        ConfigError, match="^model.py's GPTConfig has no default for n_kv_head: give --n_kv_head=VALUE$"
    ):
        train.main(tiny_argv)
    train.main([*tiny_argv, "--n_kv_head=2", "--max_iters=1"])
    train.main([*tiny_argv, "--max_iters=3", "--init_from=resume"])
    assert core.load_checkpoint("out/ckpt.pt")["model_args"]["n_kv_head"] == 2


# a run


def test_values_reach_the_model_and_come_back_from_checkpoints(
    fork: None, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.py").write_text("use_flash = False\nwindows = [2]\n")
    train.main([*tiny_argv, "mine.py", "--n_kv_head=1", "--max_iters=3"])
    first = ForkGPT.seen[0]
    assert (first.use_flash, first.windows, first.n_kv_head, first.norm) == (False, [2], 1, "rms")
    assert (first.batch_size, first.compile, first.position_encoding) == (4, "max", "alibi")
    assert "GPTConfig.compile stays 'max'; the option compile=False is for other parts" in capsys.readouterr().err

    saved = core.load_checkpoint("out/ckpt.pt")
    own = {"use_flash": False, "windows": [2], "n_kv_head": 1, "norm": "rms", "position_encoding": "alibi"}
    assert own.items() <= saved["model_args"].items() and own.items() <= saved["config"].items()
    assert "compile" not in saved["model_args"] and saved["config"]["compile"] is False

    train.main([*tiny_argv, "--init_from=resume", "--norm=layer"])  # as saved, but for what is given
    resumed = core.load_checkpoint("out/ckpt.pt")
    assert ForkGPT.seen[-1] == dataclasses.replace(first, norm="layer")
    assert resumed["config"]["norm"] == "layer" and resumed["config"]["use_flash"] is False
    assert "max_iters 3 -> 6, norm rms -> layer\n" in capsys.readouterr().err

    sample.main(["--device=cpu", "--num_samples=1", "--max_new_tokens=2", "--use_flash=True", "mine.py"])
    assert ForkGPT.seen[-1] == dataclasses.replace(first, norm="layer")
    assert "--use_flash=True: without effect here (an option of train.py)" in capsys.readouterr().err


def test_nanogpts_fields_alone_train_the_same_numbers(
    monkeypatch: pytest.MonkeyPatch, run_dir: Path, tiny_argv: list[str]
) -> None:
    train.main([*tiny_argv, "--out_dir=ours"])
    use(monkeypatch, NanoConfig)
    train.main([*tiny_argv, "--out_dir=theirs"])

    ours, theirs = (core.load_checkpoint(f"{name}/ckpt.pt") for name in ("ours", "theirs"))
    assert_same(ours["model"], theirs["model"])
    assert ours["model_args"] == theirs["model_args"]


def test_a_model_made_from_ours_keeps_our_options(
    monkeypatch: pytest.MonkeyPatch, run_dir: Path, tiny_argv: list[str]
) -> None:
    use(monkeypatch, MadeFromOurs, GPT)
    schema = with_model_fields(Options)
    assert {"n_kv_head", "mixture"} == schema.FROM_MODEL and schema.ALIASES == Options.ALIASES

    train.main([*tiny_argv, "--training_type=unmasking", "--use_rope=True", "--mixture=True", "--max_iters=3"])
    args = core.load_checkpoint("out/ckpt.pt")["model_args"]
    assert (args["mixture"], args["n_kv_head"], args["position_encoding"]) == (True, 4, "rotary")
    assert args["attention_type"] == "bidirectional"


class Pretrained(ForkGPT):
    """Makes a model with fields of its own for every name."""

    @classmethod
    def from_pretrained(cls, model_type: str, override_args: Any = None) -> Any:
        sizes = dict(n_layer=1, n_head=1, n_embd=8, block_size=16, vocab_size=17)
        return cls(ForkConfig(**sizes, use_flash=False))  # type: ignore[arg-type]


def test_pretrained_weights_bring_the_fields_that_they_have(
    monkeypatch: pytest.MonkeyPatch, run_dir: Path, tiny_argv: list[str]
) -> None:
    use(monkeypatch, ForkConfig, Pretrained)
    argv = [*tiny_argv, "--init_from=gpt2", "--max_iters=3"]

    with pytest.raises(
        ConfigError, match="^norm='layer', but from_pretrained in model.py makes gpt2 with 'rms': remove"
    ):
        train.main([*argv, "--norm=layer"])
    train.main(argv)
    assert core.load_checkpoint("out/ckpt.pt")["model_args"]["use_flash"] is False


# what does not fit


def without(*names: str) -> Any:
    """Return nanoGPT's config class without some of its fields."""
    fields = [(field.name, field.type, field.default) for field in dataclasses.fields(NanoConfig)]
    return dataclasses.make_dataclass("Less", [field for field in fields if field[0] not in names])


Layers = dataclasses.make_dataclass("Layers", [("n_layers", int, 12)], bases=(without("n_layer"),))
Heads = dataclasses.make_dataclass(
    "Heads", [("n_head", list, dataclasses.field(default_factory=list))], bases=(NanoConfig,)
)


@pytest.mark.parametrize(
    ("config_class", "flags", "message"),
    [
        (NanoConfig, ["--position_encoding=rotary"], "position_encoding='rotary' sets nothing: model.py's .* remove "),
        (
            NanoConfig,
            ["--attention=manual"],
            "attention='manual' sets nothing: model.py's GPTConfig has no field attention",
        ),
        (
            NanoConfig,
            ["--training_type=unmasking"],
            "training_type=unmasking needs attention, .*: put coreGPT's model.py",
        ),
        (
            without("bias"),
            ["--bias=True"],
            "bias=True sets nothing: model.py's GPTConfig has no field bias; remove bias",
        ),
        (Layers, [], "n_layer=2 sets nothing: model.py's GPTConfig has no field n_layer; give n_layers"),
        (Heads, [], "n_head=2, but n_head in model.py's GPTConfig has another type: rename the field there"),
    ],
)
def test_options_that_a_model_cannot_follow_are_refused(
    monkeypatch: pytest.MonkeyPatch,
    run_dir: Path,
    tiny_argv: list[str],
    config_class: Any,
    flags: list[str],
    message: str,
) -> None:
    use(monkeypatch, config_class)

    with pytest.raises(ConfigError, match=f"^{message}"):
        train.main([*tiny_argv, *flags])
    assert not Path("out").exists()


def test_a_field_of_nanogpts_that_is_missing_is_left_out(
    monkeypatch: pytest.MonkeyPatch, run_dir: Path, tiny_argv: list[str]
) -> None:
    class WithoutBias(ForkGPT):
        def __init__(self, config: Any) -> None:
            config.bias = False
            super().__init__(config)

    use(monkeypatch, without("bias"), WithoutBias)
    train.main([*tiny_argv, "--bias=False", "--attention_type=causal", "--max_iters=3"])

    assert "bias" not in core.load_checkpoint("out/ckpt.pt")["model_args"]


def fails() -> Any:
    return 1 / 0


Failing = dataclasses.make_dataclass(
    "Failing", [("x", int, dataclasses.field(default_factory=fails))], bases=(NanoConfig,)
)


class Attributes:
    """No dataclass, and no constructor."""

    n_layer, block_size, vocab_size = 12, 1024, 50304


@pytest.mark.parametrize(
    ("config_class", "model_class", "message"),
    [
        (
            None,
            ForkGPT,
            "/fork/model.py defines no class GPTConfig: wanted both, as in nanoGPT; put such a file",
        ),
        (None, None, "/fork/model.py defines no class GPT and no class GPTConfig: "),
        (
            Attributes,
            ForkGPT,
            "model.py's GPTConfig takes no block_size and no vocab_size, which every run sets: name them",
        ),
        (
            Failing,
            ForkGPT,
            "the fields of model.py's GPTConfig cannot be read: ZeroDivisionError: division by zero; mend",
        ),
    ],
)
def test_a_model_file_without_what_a_run_needs_is_one_message(
    monkeypatch: pytest.MonkeyPatch, config_class: Any, model_class: Any, message: str
) -> None:
    use(monkeypatch, config_class, model_class)

    for program in (train.main, sample.main):
        with pytest.raises(ConfigError, match=f"^{message}"):
            program([])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = (\n", "model.py:1: importing it fails with SyntaxError: '.' was never closed; mend it, or put coreGPT's"),
        (
            "\nimport not_there\n",
            "^model.py:2: .* ModuleNotFoundError: No module named 'not_there'; copy the fork's not_there.py next to "
            "model.py, install not_there, or put ",
        ),
        (
            "assert False, 'no GPU'",
            "^model.py:1: importing it fails with AssertionError: no GPU; mend it, or put coreGPT's",
        ),
        (
            "x = 1\nfrom rotary_of_a_fork import apply",
            "^rotary_of_a_fork.py:2, imported by model.py:2: importing it fails with ZeroDivisionError: ",
        ),
        ("import sys\nsys.exit(3)", "^model.py:2: importing it fails with SystemExit: 3; mend it"),
        (None, "^there is no model.py next to train.py: put coreGPT's or your fork's there$"),
    ],
)
def test_a_model_file_that_cannot_be_imported_is_one_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / "model.py").write_text(text)
        (tmp_path / "rotary_of_a_fork.py").write_text("\napply = 1 / 0\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if "Path" in repr(finder)])
    monkeypatch.delitem(sys.modules, "model")

    with pytest.raises(ConfigError, match=message):
        load_architecture()


def test_the_architecture_is_that_of_our_model() -> None:
    found = load_architecture()

    assert found[:2] == (our_model.GPT, our_model.GPTConfig) and found.is_ours and not found.own_fields
    assert {*wiring.architecture.OURS, *REPLACED, *wiring.architecture.NANOGPT} == set(found.fields)


# methods of a fork's GPT


def lacking(*names: str) -> type[ForkGPT]:
    """Return a GPT that lacks methods."""

    class Lacking(ForkGPT):
        def __getattribute__(self, name: str) -> Any:
            if name in names:
                raise AttributeError(name)
            return super().__getattribute__(name)

    return Lacking


def test_a_model_without_an_mfu_trains_and_is_sampled(
    monkeypatch: pytest.MonkeyPatch, run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, NanoConfig, lacking("estimate_mfu"))
    train.main(tiny_argv)
    assert "iter 6: " in capsys.readouterr().out
    sample.main(["--out_dir=out", "--device=cpu", "--num_samples=1", "--max_new_tokens=2", "--start=a"])


@pytest.mark.parametrize(
    ("name", "flags", "use_of_it"),
    [
        ("configure_optimizers", [], "training"),
        ("crop_block_size", ["--init_from=resume", "--block_size=8"], "a block_size below the checkpoint's 16"),
    ],
)
def test_a_method_that_is_needed_and_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, run_dir: Path, tiny_argv: list[str], name: str, flags: list[str], use_of_it: str
) -> None:
    use(monkeypatch, NanoConfig)
    train.main([*tiny_argv, "--max_iters=1"])
    use(monkeypatch, NanoConfig, lacking(name))

    message = f"model.py's GPT has no method {name}, which {use_of_it} needs: add what nanoGPT's model.py has"
    with pytest.raises(ConfigError, match=f"^{message}$"):
        train.main([*tiny_argv, *flags])


def test_a_model_that_cannot_generate_is_not_sampled(
    monkeypatch: pytest.MonkeyPatch, run_dir: Path, tiny_argv: list[str]
) -> None:
    use(monkeypatch, NanoConfig, lacking("generate"))
    train.main([*tiny_argv, "--max_iters=1"])
    with pytest.raises(ConfigError, match="^model.py's GPT has no method generate, which sampling needs: add"):
        sample.main(["--out_dir=out", "--device=cpu", "--start=a"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda logits, loss: (logits, loss, None), "returns 3 values from forward"),
        (lambda logits, loss: loss, "returns Tensor from forward"),
    ],
)
def test_a_forward_pass_with_other_results_is_refused(
    monkeypatch: pytest.MonkeyPatch, run_dir: Path, tiny_argv: list[str], change: Any, message: str
) -> None:
    class Other(ForkGPT):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return change(*super().forward(*args, **kwargs))

    use(monkeypatch, NanoConfig, Other)
    with pytest.raises(ConfigError, match=f"^model.py's GPT {message}.*, wanted logits and loss, as in nanoGPT: "):
        train.main(tiny_argv)


def test_an_optimizer_method_with_other_parameters_or_results_is_refused(
    monkeypatch: pytest.MonkeyPatch, run_dir: Path, tiny_argv: list[str]
) -> None:
    class Other(ForkGPT):
        def configure_optimizers(self, train_config: Any) -> Any:  # type: ignore[override]
            return None

    class Several(ForkGPT):
        def configure_optimizers(self, *settings: Any) -> Any:
            return [super().configure_optimizers(*settings)]

    use(monkeypatch, NanoConfig, Other)
    with pytest.raises(
        ConfigError, match=r"configure_optimizers takes \(train_config: Any\).*, wanted \(weight_decay, "
    ):
        train.main(tiny_argv)
    use(monkeypatch, NanoConfig, Several)
    with pytest.raises(ConfigError, match="configure_optimizers returns a list, wanted one torch.optim.Optimizer$"):
        train.main(tiny_argv)


def test_a_field_of_text_or_number_takes_both(
    monkeypatch: pytest.MonkeyPatch, run_dir: Path, tiny_argv: list[str]
) -> None:
    fields = [("scale", float | str, dataclasses.field(default="auto"))]
    use(monkeypatch, dataclasses.make_dataclass("Scaled", fields, bases=(NanoConfig,)))
    for flag, value in (("--scale=0.5", 0.5), ("--scale=small", "small"), ("--n_layer=1", "auto")):
        train.main([*tiny_argv, flag, "--max_iters=0", "--eval_only=True"])
        assert ForkGPT.seen[-1].scale == value and type(ForkGPT.seen[-1].scale) is type(value)
