"""Options from defaults, config files and the command line: every rule, every message, both entry points."""

import keyword
import os
import random
import re
import string
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config import spelling
from config.foreign_systems import TRAINING_ARGUMENTS
from config.options import Options, SampleOptions
from configurator import configure
from core.errors import ConfigError

ROOT = Path(__file__).parents[1]
NAMES = sorted(Options.model_fields)

# exec(open(...).read()), which nanoGPT's scripts use, does not close the file
nanogpt_exec = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in an empty folder, so that config files have short names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    return tmp_path


def write(name: str, text: str) -> str:
    Path(name).write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
    return name


def from_py(text: str, *more: str) -> Options:
    return configure(Options, [write("x.py", text), *more])


def from_yaml(text: str, *more: str) -> Options:
    return configure(Options, [write("x.yaml", text), *more])


def error_of(*argv: str) -> str:
    with pytest.raises(ConfigError) as caught:
        configure(Options, argv)
    return str(caught.value)


# whose values they are


def test_the_users_own_values_are_known_and_a_base_files_are_not() -> None:
    write("base_line.py", "batch_size = 3\nmin_lr = 1.0")
    write("preset.py", "from base_line_too import *\nseed = 2")
    write("base_line_too.py", "eval_iters = 7")
    sys.path.insert(0, "")
    try:
        options = configure(Options, ["base_line.py", write("x.yaml", "n_head: 4"), "preset.py", "--model.n_layer=2"])
    finally:
        sys.path.remove("")

    assert (options.batch_size, options.min_lr, options.eval_iters) == (3, 1.0, 7)
    assert options.model_fields_set == {"n_head", "n_layer", "seed"}
    assert configure(Options, ["base_line.py", "--min_lr=1"]).model_fields_set == {"min_lr"}
    assert configure(Options, []) == Options() and Options(seed=1).model_fields_set == {"seed"}


def test_defaults_in_a_saved_file_are_not_the_users_own() -> None:
    path = write("saved.yaml", "seed: 3\ndefaults:\n  n_head: 4\n  batch_size: 2")
    options = configure(Options, [path, "--batch_size=5"])

    assert (options.seed, options.n_head, options.batch_size) == (3, 4, 5)
    assert options.model_fields_set == {"seed", "batch_size"}
    assert "unknown option 'n_haed'" in error_of(write("typo.yaml", "defaults:\n  n_haed: 4"))


# order


def test_without_arguments_everything_is_default() -> None:
    assert configure(Options, []).model_dump() == Options.defaults()


@pytest.mark.parametrize(
    ("argv", "batch_size"),
    [
        (["--batch_size=1", "--batch_size=2"], 2),
        (["three.py", "--batch_size=1"], 1),
        (["--batch_size=1", "three.py"], 3),
        (["three.py", "four.yaml"], 4),
        (["four.yaml", "three.py"], 3),
        (["four.yaml", "--batch_size=5", "three.py", "--batch_size=6"], 6),
        (["--batch_size=7", "four.yaml", "one_more.py"], 5),
    ],
)
def test_the_last_value_wins(argv: list[str], batch_size: int) -> None:
    write("three.py", "batch_size = 3")
    write("four.yaml", "batch_size: 4")
    write("one_more.py", "batch_size = batch_size + 1")

    assert configure(Options, argv).batch_size == batch_size


# .py files


def test_a_python_file_computes_from_the_current_values() -> None:
    write(
        "x.py",
        """
        max_iters = lr_decay_iters = 5000
        min_lr = learning_rate / 10
        block_size *= 2
        batch_size, n_layer = 3, 4
        if dataset == "mine":
            factor = 2
            def times(x):
                return x * factor
            eval_iters = times(eval_iters)
        for warmup_iters in range(8):
            pass
        """,
    )
    options = configure(Options, ["--learning_rate=1e-2", "--dataset=mine", "x.py"])

    assert options.changed(*NAMES) == dict(
        learning_rate=0.01, dataset="mine", max_iters=5000, lr_decay_iters=5000, min_lr=0.001, block_size=2048,
        batch_size=3, n_layer=4, eval_iters=400, warmup_iters=7,
    )  # fmt: skip


def test_a_python_file_has_nanogpts_imports() -> None:
    options = from_py(
        """
        out_dir = os.path.join("runs", str(int(time.time() > 0)))
        n_layer = int(math.sqrt(16))
        n_head = len(pickle.loads(pickle.dumps([1, 2])))
        n_embd = np.int64(8) * 4
        wandb_run_name = "at " + torch.float32.__repr__()
        """
    )

    assert options.pick("out_dir", "n_layer", "n_head", "n_embd", "wandb_run_name") == dict(
        out_dir="runs/1", n_layer=4, n_head=2, n_embd=32, wandb_run_name="at torch.float32"
    )


@nanogpt_exec
def test_a_python_file_may_import_and_run_others() -> None:
    write("base.py", "n_layer = 3\nbatch_size = 5\n")
    options = from_py("import os.path as where\nexec(open('base.py').read())\nbatch_size += where.exists('base.py')\n")

    assert (options.n_layer, options.batch_size) == (3, 6)


def test_numpy_and_torch_scalars_become_plain_values() -> None:
    options = from_py(
        """
        from pathlib import Path
        max_iters = np.int64(5)
        learning_rate = np.float32(0.5)
        grad_clip = np.int32(2)
        bias = np.bool_(True)
        dataset = np.str_("mine")
        dropout = torch.tensor(0.25)
        out_dir = Path("a") / "b"
        """
    )

    values = options.pick("max_iters", "learning_rate", "grad_clip", "bias", "dataset", "dropout", "out_dir")
    assert values == dict(
        max_iters=5, learning_rate=0.5, grad_clip=2.0, bias=True, dataset="mine", dropout=0.25, out_dir="a/b"
    )
    assert [type(value) for value in values.values()] == [int, float, float, bool, str, float, str]


# .yaml files


def test_yaml_flat_in_sections_and_dotted_may_be_mixed() -> None:
    options = from_yaml(
        """
        learning_rate: 1e-3
        training:
          batch_size: 3
          grad_clip: 0
        schedule: {min_lr: 1.0e-4, decay_lr: no}
        model.n_layer: 4
        max_iters: 1_000
        dataset: mine
        wandb_run_name: 2024
        eval_iters: "5"
        """
    )

    assert options.changed(*NAMES) == dict(
        learning_rate=0.001, batch_size=3, grad_clip=0.0, min_lr=0.0001, decay_lr=False, n_layer=4, max_iters=1000,
        dataset="mine", wandb_run_name="2024", eval_iters=5,
    )  # fmt: skip


def test_an_empty_yaml_file_changes_nothing() -> None:
    assert from_yaml("# no options\n").model_dump() == Options.defaults()


def test_an_empty_yaml_section_changes_nothing() -> None:
    assert from_yaml("training:\n  # batch_size: 3\nmodel:\n  n_layer: 3\n").changed(*NAMES) == {"n_layer": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchsize: 3\n", "x.yaml: unknown option 'batchsize', did you mean 'batch_size'?"),
        ("model:\n  n_layers: 3\n", "x.yaml: unknown option 'model.n_layers', did you mean 'model.n_layer'?"),
        (
            "nonsense: {batch_size: 3}\n",
            "x.yaml: unknown section 'nonsense', wanted one of " + ", ".join(Options.sections()),
        ),
        ("max_iters: null\n", "x.yaml: max_iters: got None, wanted number >= 0"),
        ("max_iters: [1, 2]\n", "x.yaml: max_iters: got [1, 2], wanted number >= 0"),
        ("dropout: 1\n", "x.yaml: dropout: got 1, wanted float >= 0 and < 1"),
        ("- 1\n- 2\n", "x.yaml: wanted options as 'name: value' lines, got [1, 2]"),
    ],
)
def test_errors_of_a_yaml_file_name_the_option(text: str, message: str) -> None:
    assert error_of(write("x.yaml", text)) == message


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.yaml", "seed: 1\na: [1\n", "x.yaml:3 is not valid YAML: expected ',' or ']'"),
        ("x.yaml", "n_layer = 2\n", "x.yaml: wanted options as 'name: value' lines, got 'n_layer = 2'"),
        ("x.yaml", "!!python/object/apply:os.mkdir ['made']\n", "x.yaml:1 is not valid YAML: could not determine a"),
        (
            "x.yaml",
            "max_iters: 3: 4\n",
            "x.yaml:1 is not valid YAML: mapping values are not allowed here: 'max_iters: 3: 4'",
        ),
        ("x.yaml", "a: \x00\n", "x.yaml is not valid YAML: "),
        ("x.yaml", "[" * 3000, "x.yaml is nested too deeply: wanted 'name: value' lines"),
        ("x.yaml", f"seed: {'9' * 5000}\n", "x.yaml is not valid YAML: Exceeds the limit"),
        (
            "x.json",
            '{"seed": 1,\n "bias": True}',
            "x.json:2 is not valid JSON: Expecting value, column 10: '\"bias\": True}'",
        ),
        ("x.json", "[" * 100_000, "x.json is nested too deeply"),
        ("x.json", f'{{"seed": {"9" * 5000}}}', "x.json is not valid JSON: Exceeds the limit"),
        ("x.json", "[1, 2]", "x.json: wanted options as 'name: value' lines, got [1, 2]"),
        ("x.toml", "seed = 1\nbias = True\n", "x.toml is not valid TOML: Invalid value (at line 2, column 8)"),
        ("x.toml", "seed = 1\nseed = 2\n", "x.toml is not valid TOML: Cannot overwrite a value (at line 2"),
    ],
    ids=lambda value: value[:20].strip(),
)
def test_a_damaged_mapping_is_refused_with_file_and_line(name: str, text: str, message: str, folder: Path) -> None:
    assert error_of(write(name, text)).startswith(message)
    assert [path.name for path in folder.iterdir()] == [name]


@pytest.mark.parametrize(("end", "shown"), [("exit()", "None"), ("raise SystemExit('no')", "no")])
def test_a_file_that_ends_the_program_is_an_error(end: str, shown: str) -> None:
    assert error_of(write("x.py", f"batch_size = 3\n{end}\n")) == f"x.py:2: {end}: SystemExit: {shown}"


def test_a_file_that_fails_leaves_no_unchecked_values() -> None:
    message = error_of(write("x.py", "dtype = 'float8'\nbatch_size = 0\nn_layer = missing\n"))

    assert message == "x.py:3: n_layer = missing: NameError: name 'missing' is not defined"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.json", '{"batch_size": 3, "model": {"n_layer": 2}, "compile": false, "wandb_run_name": null}'),
        ("x.JSON", '\ufeff{"training.batch_size": 3, "n_layer": 2, "compile": false, "wandb_run_name": null}'),
        ("x.toml", 'batch_size = 3\ncompile = false\nwandb_run_name = "None"\n[model]\nn_layer = 2\n'),
        ("x.yaml", "\ufeffbatch_size: 3\r\nmodel:\r\n  n_layer: 2\r\ncompile: no\r\nwandb_run_name:\r\n"),
        ("x.py", "\ufeffbatch_size = 3\r\nn_layer = 2\r\ncompile = False\r\nwandb_run_name = None\r\n"),
    ],
)
def test_every_notation_gives_the_same_options(name: str, text: str) -> None:
    """Files from Windows, with a byte order mark and its line ends, among them."""
    Path(name).write_bytes(text.encode())
    options = configure(Options, [name])
    assert options.pick("batch_size", "n_layer", "compile", "wandb_run_name") == {
        "batch_size": 3, "n_layer": 2, "compile": False, "wandb_run_name": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "config = dict(batch_size=3)\n",
        "class Config:\n    batch_size = 3\n",
        "def config():\n    batch_size = 3\n    return {'batch_size': batch_size}\n",
        "# batch_size = 3\n",
        "",
        '{"batch_size": 3}\n',
        "print('hello')\n",
    ],
)
def test_a_python_file_that_sets_no_option_is_refused(text: str) -> None:
    assert error_of(write("x.py", text)).startswith(
        "x.py sets no option: wanted lines such as `batch_size = 8`, outside"
    )


@pytest.mark.parametrize(
    "text", ["batch_size: 3\n", "batch_size: int\nn_layer = 2\n", "vocab = 3\nbatch_size: vocab\n"]
)
def test_yaml_in_a_python_file_is_refused(text: str) -> None:
    line = text.splitlines().index(next(line for line in text.splitlines() if line.startswith("batch"))) + 1
    assert error_of(write("x.py", text)) == (
        f"x.py:{line}: `batch_size: VALUE` sets nothing in Python: write `batch_size = VALUE`, or give the file a name "
        "that ends in .yaml"
    )


def test_a_type_next_to_a_value_is_no_yaml() -> None:
    assert from_py("batch_size: int\nbatch_size = 3\nn_layer: int = 2\nhelper: int\n").changed(*NAMES) == {
        "batch_size": 3,
        "n_layer": 2,
    }


@pytest.mark.parametrize(
    "text",
    [
        "batch_size = 12\n",
        "from mine import *\n",
        "with open('mine.py') as file:\n    exec(file.read())\n",
        "temperature = 1\n",
        "use_rope = 0\n",
    ],
)
def test_a_file_that_sets_a_default_or_another_programs_option_is_taken(
    text: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(folder)
    write("mine.py", "batch_size = 12\n")
    assert from_py(text) == Options()


def test_names_that_set_nothing_are_listed_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    write("base.py", "layers_wanted = 2\nrun_tag = 'a'\nbatch_size = 3\n")
    write(
        "x.py",
        "n_layer = layers_wanted\nuse_moe = True\nlr = 1e-3\nbetas = (0.9, 1)\n_p = 1\nn_embed = 8\nBATCH_SIZE = 8\n",
    )
    assert configure(Options, ["base.py", "x.py"]).n_layer == 2
    assert capsys.readouterr().err.splitlines() == [
        "base.py: these set nothing here: run_tag",
        "x.py: these set nothing here: use_moe, lr (here: learning_rate), betas, n_embed (here: n_embd), "
        "BATCH_SIZE (here: batch_size)",
    ]


@pytest.mark.parametrize("heading", ["optimizer", "model", "nonsense"])
def test_a_key_under_another_sections_heading_is_refused(heading: str) -> None:
    """The section is checked, not only the last part of the name."""
    assert f"unknown option '{heading}.batch_size'" in error_of(f"--{heading}.batch_size=3")
    wrong = error_of(write("x.yaml", f"{heading}:\n  batch_size: 3\n"))
    assert f"unknown {'section' if heading == 'nonsense' else 'option'} '{heading}" in wrong


@pytest.mark.parametrize("heading", ["optimizer", "model", "run"])
def test_the_correct_section_of_an_option_is_suggested(heading: str) -> None:
    assert error_of(f"--{heading}.batch_size=3").endswith("did you mean 'training.batch_size'?")


def test_a_misspelt_section_is_suggested() -> None:
    assert error_of("--trainig.batch_size=3").endswith("did you mean 'training.batch_size'?")


# flags


@pytest.mark.parametrize(
    ("flag", "name", "value"),
    [
        ("--learning_rate=1", "learning_rate", 1.0),
        ("--learning_rate=1e-3", "learning_rate", 1e-3),
        ("--max_iters=1e5", "max_iters", 100_000),
        ("--max_iters=10_000", "max_iters", 10_000),
        ("--bias=True", "bias", True),
        ("--bias=true", "bias", True),
        ("--compile=False", "compile", False),
        ("--wandb_run_name=123", "wandb_run_name", "123"),
        ("--wandb_run_name=007", "wandb_run_name", "007"),
        ("--wandb_run_name=1e5", "wandb_run_name", "1e5"),
        ("--wandb_run_name=True", "wandb_run_name", "True"),
        ("--wandb_run_name=None", "wandb_run_name", None),
        ("--wandb_run_name=", "wandb_run_name", ""),
        ("--wandb_run_name=lr=1=2", "wandb_run_name", "lr=1=2"),
        ("--out_dir=a b/c", "out_dir", "a b/c"),
        ("--dtype=float32", "dtype", "float32"),
        ("--training.batch_size=16", "batch_size", 16),
        ("--model.bias=True", "bias", True),
        ("--seed=0", "seed", 0),
    ],
)
def test_a_flag_takes_the_options_type(flag: str, name: str, value: Any) -> None:
    options = configure(Options, [flag])

    assert getattr(options, name) == value and type(getattr(options, name)) is type(value)
    assert set(options.changed(*NAMES)) <= {name}


@pytest.mark.parametrize("text", ['"two words"', "'two words'"])
def test_a_quoted_string_loses_its_quotes_as_in_nanogpt(text: str) -> None:
    assert configure(Options, [f"--wandb_run_name={text}"]).wandb_run_name == "two words"


def test_none_is_accepted_by_optional_options() -> None:
    assert configure(SampleOptions, ["--top_k=None"]).top_k is None
    assert configure(SampleOptions, ["--top_k=null"]).top_k is None
    assert configure(SampleOptions, [write("x.py", "top_k = None")]).top_k is None
    assert configure(SampleOptions, ["--top_k=5"]).top_k == 5


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--batch_size=1.5", "batch_size: got '1.5', wanted int >= 1"),
        ("--max_iters=True", "max_iters: got 'True', wanted number >= 0"),
        ("--max_iters=", "max_iters: got '', wanted number >= 0"),
        ("--max_iters=many", "max_iters: got 'many', wanted number >= 0"),
        ("--batch_size=0", "batch_size: got '0', wanted int >= 1"),
        ("--learning_rate=-1", "learning_rate: got '-1', wanted float >= 0"),
        ("--learning_rate=nan", "learning_rate: got 'nan', wanted float >= 0"),
        ("--dropout=1.0", "dropout: got '1.0', wanted float >= 0 and < 1"),
        ("--bias=2", "bias: got '2', wanted bool"),
        ("--bias=maybe", "bias: got 'maybe', wanted bool"),
        ("--dtype=float64", "dtype: got 'float64', wanted 'float32' or 'bfloat16' or 'float16'"),
        ("--max_itres=3", "unknown option 'max_itres', did you mean 'max_iters'?"),
        ("--zzzzzzzzzzzz=3", "unknown option 'zzzzzzzzzzzz'"),
        ("--max_iters", "wanted --key=value, did you mean --max_iters=VALUE? (--help lists the options)"),
    ],
)
def test_errors_of_a_flag_name_the_option_and_the_wanted_value(flag: str, message: str) -> None:
    assert error_of(flag) == f"{flag}: {message}"


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["\u2014max_iters=2"], "--max_iters=2"),
        (["\u2013\u2013max_iters=2"], "--max_iters=2"),
        (["\u2212\u2212max_iters=2"], "--max_iters=2"),
        (["--\u2014max_iters=2"], "--max_iters=2"),
        (["-max_iters=2"], "--max_iters=2"),
        (["--max_iters", "2"], "--max_iters=2"),
        (["--max_iters", "=", "2"], "--max_iters=2"),
        (["--max_iters", "=2"], "--max_iters=2"),
        (["--max_iters =2"], "--max_iters=2"),
        (["--max-iters=2"], "--max_iters=2"),
        (["--MAX_ITERS=2"], "--max_iters=2"),
        (["--max_iters=2,"], "--max_iters=2"),
        (["--max_iters=\u00a02"], "--max_iters=2"),
        (["--dataset=\u201cbook\u201d"], "--dataset=book"),
        (["--compile"], "--compile=True"),
        (["--no-compile"], "--compile=False"),
        (["--n_layer", "3"], "--n_layer=3"),
    ],
)
def test_one_message_suggests_a_flag_that_is_accepted(argv: list[str], hint: str) -> None:
    assert configure(Options, [hint])
    (line,) = error_of(*argv).splitlines()
    assert f"did you mean {hint}?" in line


@pytest.mark.parametrize("argv", [["--max_iters=5k"], ["--max_iters=5,000"], ["--max_iters"], ["--n_layer", "many"]])
def test_no_value_is_suggested_that_would_be_refused(argv: list[str]) -> None:
    hints = re.findall(r"did you mean (--\S+)\?", error_of(*argv))
    assert not [hint for hint in hints if not hint.endswith("=VALUE")]


@pytest.mark.parametrize(
    ("flag", "option"),
    [
        ("lr", "learning_rate"), ("max_steps", "max_iters"), ("output_dir", "out_dir"), ("seq_len", "block_size"),
        ("warmup_steps", "warmup_iters"), ("max_grad_norm", "grad_clip"), ("resume", "init_from"), ("bf16", "dtype"),
        ("per_device_train_batch_size", "batch_size"), ("n_embed", "n_embd"), ("eval_every", "eval_interval"),
        ("save_every", "save_interval"), ("wd", "weight_decay"), ("data_dir", "dataset"), ("num_heads", "n_head"),
    ],
)  # fmt: skip
def test_the_flags_of_other_trainers_are_errors_that_name_the_option(flag: str, option: str) -> None:
    assert f"unknown option '{flag}', did you mean '{option}'?" in error_of(f"--{flag}=3")
    if flag not in TRAINING_ARGUMENTS:
        assert f"unknown option '{flag}', did you mean '{option}'?" in error_of(write("x.yaml", f"{flag}: 3\n"))


@pytest.mark.parametrize(
    ("flag", "hint"),
    [
        ("optimizer.lr", ", did you mean 'optimizer.learning_rate'?"),
        ("optim.betas", ""),
        ("trainer.max_epochs", ": the length of a run is max_iters, in iterations, or num_epochs"),
        ("data.batch_size", ", did you mean 'training.batch_size'?"),
        ("model.n_layers", ", did you mean 'model.n_layer'?"),
        ("model_name", ", did you mean 'init_from'?"),
        ("devices", ": one process per GPU: torchrun --standalone --nproc_per_node=N train.py"),
        ("help", ": --help stands alone, or before the name of a section"),
        ("print_config", ": --print_config stands alone"),
    ],
)
def test_what_another_trainers_flag_means_is_said(flag: str, hint: str) -> None:
    assert error_of(f"--{flag}=3") == f"--{flag}=3: unknown option '{flag}'{hint}"


def test_the_advice_for_print_config_with_a_dash_is_followed_by_none_other() -> None:
    assert error_of("--print-config") == (
        "--print-config: wanted --key=value: --print_config stands alone (--help lists the options)"
    )


def test_every_foreign_name_means_an_option_and_is_none() -> None:
    known = {*Options.model_fields, *SampleOptions.model_fields}
    assert set(spelling.FOREIGN.values()) <= known and not known & spelling.FOREIGN.keys()
    assert not known & spelling.ADVICE.keys()


@pytest.mark.parametrize("flag", ["config", "gpus", "strategy", "zzz", "foo_bar", "workers"])
def test_nothing_is_suggested_for_a_flag_without_a_counterpart(flag: str) -> None:
    assert "did you mean" not in error_of(f"--{flag}=3")


def test_an_option_of_the_other_program_has_no_effect(capsys: pytest.CaptureFixture[str]) -> None:
    assert configure(Options, ["--temperature=0.5"]) == Options()
    assert configure(SampleOptions, ["--dataset=letters"]) == SampleOptions()
    assert capsys.readouterr().err.splitlines() == [
        "--temperature=0.5: without effect here (an option of sample.py)",
        "--dataset=letters: without effect here (an option of train.py)",
    ]


def test_a_flag_that_is_accepted_and_ignored_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert configure(Options, ["--vocab_size=100", write("x.py", "vocab_size = 65\nn_layer = 2\n")]).n_layer == 2
    assert capsys.readouterr().err == "--vocab_size=100: without effect here (read from meta.pkl)\n"


def test_a_training_config_works_for_sampling(capsys: pytest.CaptureFixture[str]) -> None:
    write("x.py", "out_dir = 'out-x'\nn_layer = 2\nlearning_rate = 1e-3\n")
    assert configure(SampleOptions, ["x.py"]).out_dir == "out-x"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "given",
    [
        "config/train_shakespear.py",
        "config/train_shakespeare",
        "train_shakespeare.py",
        "train_shakespeare.py\r",
        "config\\train_shakespeare.py",
    ],
)
def test_the_nearest_config_file_is_named(given: str) -> None:
    Path("config").mkdir()
    write("config/train_shakespeare.py", "batch_size = 3\n")
    message = error_of(given)
    assert message.startswith("cannot read config file ") and "\r" not in message
    assert message.endswith("; did you mean config/train_shakespeare.py?")


def test_flags_without_their_dashes_are_recognised() -> None:
    assert error_of("max_iters=3").endswith("did you mean --max_iters=3?")
    assert error_of("-max_iters=3").endswith("did you mean --max_iters=3?")


# option names of other trainers


def test_aliases_work_on_the_command_line_in_yaml_and_in_python() -> None:
    assert configure(Options, ["--use_rope=True"]).position_encoding == "rotary"
    assert configure(Options, ["--use_rope=False"]).position_encoding == "absolute"
    assert from_py("use_rope = True\n").position_encoding == "rotary"
    assert from_yaml("use_rope: true\n").position_encoding == "rotary"
    assert configure(Options, ["--training.lr=1e-2"]).learning_rate == 1e-2
    assert configure(Options, ["--model_mode=language_model"]).training_type == "language_model"
    options = from_yaml(
        "optimization: {learning_rate: 3e-4, max_grad_norm: 2}\nmonitoring:\n  log_every_n_steps: 7\n",
        "--wandb.project=p",
    )
    assert options.changed(*NAMES) == dict(learning_rate=3e-4, grad_clip=2.0, log_interval=7, wandb_project="p")


def test_an_alias_with_an_unknown_value_names_the_option() -> None:
    wanted = "cannot read use_rope='maybe'; use the option 'position_encoding' instead"
    assert error_of("--use_rope=maybe") == f"--use_rope=maybe: {wanted}"
    assert error_of(write("x.py", "\nuse_rope = 'maybe'")) == f"x.py:1: {wanted}"


def test_every_alias_reaches_its_option() -> None:
    for alias, (name, meaning) in Options.ALIASES.items():
        for theirs, ours in (meaning or {repr(None): None}).items():
            field = Options.model_fields[name]
            alias_value, expected = (theirs, ours) if meaning else (field.default, field.default)
            assert getattr(configure(Options, [f"--{alias}={alias_value}"]), name) == expected


@pytest.mark.parametrize("alias", ["training.use_torch_compile", "monitoring.use_wandb"])
def test_an_alias_of_a_switch_can_turn_it_off(alias: str) -> None:
    assert getattr(configure(Options, [f"--{alias}=false"]), Options.ALIASES[alias][0]) is False


def test_an_alias_on_the_command_line_overrides_the_alias_in_a_file() -> None:
    path = write("x.py", "use_rope = True\n")

    assert configure(Options, [path]).position_encoding == "rotary"
    assert configure(Options, [path, "--use_rope=False"]).position_encoding == "absolute"


@pytest.mark.parametrize(
    "line", ["warmup_iters = 0.07 * 100", "max_iters = 1000 / 3", "compile = 0", "wandb_run_name = None"]
)
def test_values_that_nanogpt_accepts_in_a_file_are_accepted(line: str) -> None:
    configure(Options, [write("x.py", line + "\n")])


def test_no_alias_is_also_an_option() -> None:
    assert not set(Options.ALIASES) & set(Options.model_fields)


# the echo


@pytest.mark.parametrize("flag", ["--local-rank=0", "--local_rank=3"])
def test_the_flag_of_older_launchers_is_ignored(flag: str) -> None:
    assert configure(Options, [flag, "--batch_size=3"]) == configure(Options, ["--batch_size=3"])


@pytest.mark.parametrize(("rank", "prints"), [("", True), ("-1", True), ("0", True), ("1", False)])
def test_only_rank_0_echoes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, rank: str, prints: bool
) -> None:
    monkeypatch.setenv("RANK", rank)
    configure(Options, ["--batch_size=3"])
    assert capsys.readouterr().out == ("Overriding: batch_size = 3\n" if prints else "")


def test_the_echo_is_nanogpts(capsys: pytest.CaptureFixture[str]) -> None:
    text = "# mine\nbatch_size = 3\n\nmin_lr = 1e-5 # low"
    Path("x.py").write_text(text)

    configure(Options, ["--n_layer=2", "x.py", "--learning_rate=1e-3", "--wandb_run_name=a=b", "--bias=True"])

    assert capsys.readouterr().out == (
        "Overriding: n_layer = 2\n"
        "Overriding config with x.py:\n"
        f"{text}\n"
        "Overriding: learning_rate = 0.001\n"
        "Overriding: wandb_run_name = a=b\n"
        "Overriding: bias = True\n"
    )


def test_a_yaml_file_is_echoed_in_the_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    from_yaml("n_layer: 3\n")

    assert capsys.readouterr().out == "Overriding config with x.yaml:\nn_layer: 3\n\n"


@pytest.mark.parametrize(("rank", "prints"), [("0", True), ("1", False), ("7", False)])
def test_only_rank_0_prints(
    rank: str, prints: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)

    assert from_py("n_layer = 3", "--n_head=3").n_layer == 3
    assert bool(capsys.readouterr().out) is prints


# typos and helper variables in .py files


def test_a_typo_in_a_file_is_an_error_with_file_line_and_suggestion() -> None:
    assert error_of(write("x.py", "batch_size = 3\n\nlearing_rate = 1e-3\n")) == (
        "x.py:3: unknown option 'learing_rate', did you mean 'learning_rate'? "
        "(if it is a helper variable, use it in the file or rename it)"
    )


@pytest.mark.parametrize(
    "statement",
    [
        "max_iter = 3",
        "max_iter: int = 3",
        "max_iter, other = 3, 4",
        "for max_iter in range(3): pass",
        "if True: max_iter = 3",
    ],
)
def test_a_typo_is_reported_for_every_form_of_assignment(statement: str) -> None:
    assert "unknown option 'max_iter', did you mean 'max_iters'?" in error_of(write("x.py", statement))


@pytest.mark.parametrize(
    "text",
    [
        "max_iter = 5\nmax_iters = max_iter * 2\n",  # similar to an option, but the file reads it
        "tokens_wanted = 5\n",  # similar to no option
        "import time as seeds\n",
        "def learning_rates():\n    pass\n",
        "class dtypes:\n    pass\n",
        "_max_iter = 5\n",
        "from math import *\n",
    ],
)
def test_a_files_helper_names_are_ignored(text: str) -> None:
    assert set(from_py(text + "seed = 1337\n").changed(*NAMES)) <= {"max_iters"}


def test_a_flag_overrides_a_helper_variable_between_files(capsys: pytest.CaptureFixture[str]) -> None:
    write("helper.py", "epochs = 2\n")
    write("uses.py", "max_iters = epochs * 100\n")

    assert configure(Options, ["helper.py", "--epochs=7", "uses.py"]).max_iters == 700
    assert "Overriding: epochs = 7\n" in capsys.readouterr().out
    assert error_of("--epochs=7", "helper.py", "uses.py") == (
        "--epochs=7: unknown option 'epochs': the length of a run is max_iters, in iterations, or num_epochs"
    )


def test_deleting_an_option_in_a_file_is_an_error() -> None:
    assert "n_layer" in error_of(write("x.py", "del n_layer\n"))


# messages


def test_all_errors_are_reported_at_once() -> None:
    write("x.py", "batch_sise = 3\nn_layer = 'many'\nbatch_size = 0.5\n")
    write("y.yaml", "eval_itters: 3\nmodel: {n_head: 0}\n")

    lines = error_of(
        "--bogus=1", "x.py", "y.yaml", "--dtype=int8", "none.py", "--n_embd=100", "--n_head=3"
    ).splitlines()

    assert [line.split(" (")[0] for line in lines] == [
        "--bogus=1: unknown option 'bogus'",
        "x.py:1: unknown option 'batch_sise', did you mean 'batch_size'?",
        "x.py:2: n_layer: got 'many', wanted int >= 1",
        "x.py:3: batch_size: got 0.5, wanted int >= 1",
        "y.yaml: unknown option 'eval_itters', did you mean 'eval_iters'?",
        "y.yaml: n_head: got 0, wanted int >= 1",
        "--dtype=int8: dtype: got 'int8', wanted 'float32' or 'bfloat16' or 'float16'",
        "cannot read config file none.py: No such file or directory",
        "n_embd=100 must be divisible by n_head=3: change one of them",
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--foo", "3"], "--foo: wanted --key=value (--help lists the options)"),
        (["--lr", "3e-4"], "--lr: wanted --key=value, did you mean 'learning_rate'? (--help lists the options)"),
        (["-n_layer", "3"], "-n_layer 3: wanted --key=value, did you mean --n_layer=3?"),
        (["n_layer", "3"], "n_layer 3: wanted --key=value, did you mean --n_layer=3?"),
        (["--no_compile", "1"], "--no_compile: wanted --key=value, did you mean --compile=False?"),
        (["--foo", "--bar=1"], "--foo: wanted --key=value (--help lists the options)\n--bar=1: unknown option 'bar'"),
    ],
)
def test_a_value_after_a_flag_is_no_config_file(argv: list[str], message: str) -> None:
    assert error_of(*argv) == message


CANNOT_BE_PRINTED = """
class Odd:
    def __repr__(self):
        raise RuntimeError
    __str__ = __repr__
class OddError(Exception):
    __str__ = Odd.__repr__
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "n_layer = Odd()",
            "7: n_layer: got a value of type Odd that cannot be printed (RuntimeError), wanted int >= 1",
        ),
        (
            "use_rope = Odd()",
            "7: cannot read use_rope=a value of type Odd that cannot be printed (RuntimeError); use the option 'pos",
        ),
        (
            "use_guidance = Odd()",
            "use_guidance=a value of type Odd that cannot be printed (RuntimeError) is not supported: ",
        ),
        (
            "raise OddError",
            "7: raise OddError: OddError: a value of type OddError that cannot be printed (RuntimeError)",
        ),
        (
            "n_layer = 10**5000",
            "7: n_layer: got a value of type int that cannot be printed (ValueError), wanted int >= 1, at most",
        ),
        ("n_layer = list(range(10**5))", "7: n_layer: got [0, 1, 2, "),
        ("n_layer = 'a\\n'", "7: n_layer: got 'a\\n', wanted int >= 1"),
        ("n_layer = np.zeros((9, 99))", "7: n_layer: got array([[0., 0., "),
    ],
)
def test_a_value_of_any_kind_is_named_in_one_short_line(text: str, message: str) -> None:
    error = error_of(write("x.py", f"{CANNOT_BE_PRINTED}{text}\n"))

    assert message in error and len(error) < 400 and len(error.splitlines()) == 1


def test_paths_that_no_file_system_takes_are_refused() -> None:
    assert configure(Options, [f"--out_dir={'x' * 255}"]).out_dir == "x" * 255
    for path in ("x" * 256, "\u00e9" * 128, "a/" * 2001):
        for name in ("out_dir", "dataset", "init_from", "ckpt_filename", "init_from_checkpoint"):
            assert error_of(f"--{name}={path}").endswith(
                ", wanted a path of at most 4000 bytes, with names of at most 255"
            )


def test_an_option_of_any_length_is_compared_in_no_time() -> None:
    error = error_of(f"--{'x' * 10**6}=3")

    assert "unknown option" in error and "did you mean" not in error


@pytest.mark.parametrize("name", ["x.py", "x.yaml"])
def test_a_config_file_that_is_a_pipe_or_a_device_is_refused(name: str) -> None:
    """Reading it may never end."""
    os.mkfifo(name)
    Path(f"zero_{name}").symlink_to("/dev/zero")

    for path in (name, f"zero_{name}"):
        assert error_of(path) == f"cannot read config file {path}: it is a device or a named pipe, wanted a file"


def test_a_config_may_come_through_an_open_file() -> None:
    """As in `train.py <(make_config)`."""
    reading, writing = os.pipe()
    os.write(writing, b"batch_size = 5\n")
    os.close(writing)

    assert configure(Options, [f"/dev/fd/{reading}"]).batch_size == 5
    os.close(reading)


def test_a_syntax_error_shows_the_line() -> None:
    assert error_of(write("x.py", "max_iters = 1\nbatch_size = = 3\n")) == "x.py:2: invalid syntax: batch_size = = 3"


def test_a_syntax_error_without_a_line_names_the_file() -> None:
    assert error_of(write("x.py", "batch_size = 3\n\0")) == "x.py: source code string cannot contain null bytes"


def test_a_file_that_raises_shows_its_line() -> None:
    raising = write("x.py", "n_layer = 3\nmin_lr = learning_rate / 0\n")
    assert error_of(raising).startswith("x.py:2: min_lr = learning_rate / 0: ZeroDivisionError: ")
    text = "import json\ndef load():\n    return json.loads('{')\nn_layer = load()\n"
    assert error_of(write("y.py", text)).startswith("y.py:3: return json.loads('{'): JSONDecodeError: Expecting ")
    assert "x.py:1: n_layer = layers: NameError: name 'layers'" in error_of(write("x.py", "n_layer = layers"))


def test_files_that_cannot_be_read_are_reported() -> None:
    Path("latin.py").write_bytes(b"out_dir = '\xe9'\n")
    Path("folder.py").mkdir()

    assert error_of("none.py") == "cannot read config file none.py: No such file or directory"
    assert error_of("none.yaml") == "cannot read config file none.yaml: No such file or directory"
    assert error_of("folder.py") == (
        "cannot read config file folder.py: it is a folder, wanted a file that ends in .py, .yaml, .yml, .json, .toml"
    )
    assert re.fullmatch(
        r"cannot read config file latin\.py: it is not UTF-8 text \(byte 0x.. at position \d+\): save it as UTF-8",
        error_of("latin.py"),
    )


@pytest.mark.parametrize("name", ["train.py", "sample.py"])
def test_a_program_is_no_config_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = f"cannot read config file {name}: it is a program, wanted a file of options"
    monkeypatch.chdir(ROOT)
    assert error_of(name) == reason


def test_a_config_file_may_have_the_name_of_a_program() -> None:
    assert configure(Options, [write("train.py", "n_layer = 2\n")]).n_layer == 2


def test_rules_between_options_are_checked_last() -> None:
    assert "n_embd=768 must be divisible by n_head=5" in error_of("--n_head=5")
    assert configure(Options, ["--n_head=5", "--n_embd=100"]).n_head == 5


# texts and paths


@pytest.mark.parametrize("name", ["out_dir", "dataset", "init_from", "ckpt_filename", "device"])
@pytest.mark.parametrize("value", ["", " "])
def test_an_empty_path_is_refused(name: str, value: str) -> None:
    assert re.search(
        rf"{name}: got '{value}', wanted .*str that is not empty.* \(is a var", error_of(f"--{name}={value}")
    )


@pytest.mark.parametrize(
    "name", ["wandb_run_name", "unmasking_model_checkpoint", "judge_weight_checkpoint", "trainable"]
)
def test_other_texts_may_be_empty(name: str) -> None:
    assert getattr(configure(Options, [f"--{name}="]), name) == ""
    assert configure(SampleOptions, ["--start="]).start == ""


@pytest.mark.parametrize("source", ["flag", "x.py", "x.yaml"])
def test_home_and_variables_are_expanded_in_paths(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("RUNS", "runs")
    for text, expected in (("~/a", "/home/me/a"), ("$HOME/${RUNS}/b", "/home/me/runs/b"), ("a~b", "a~b")):
        if source != "flag":
            write(source, f"out_dir = '{text}'\n" if source == "x.py" else f"out_dir: {text}\n")
        given = f"--out_dir={text}" if source == "flag" else source
        assert configure(Options, [given]).out_dir == expected


def test_a_path_that_is_none_here_is_refused() -> None:
    for path, wanted in (
        ("~nobody-here/out", "a path, and there is no user ~nobody-here (write ./~nobody-here/out if it is a name)"),
        ("s3://bucket/out", "a path on this machine, no URL"),
        ("file:///tmp/out", "a path on this machine, no URL"),
    ):
        assert error_of(f"--out_dir={path}") == f"--out_dir={path}: out_dir: got '{path}', wanted {wanted}"


@pytest.mark.parametrize("path", ["./~nobody-here", "a:b", "C:/runs", "a~b", "12:30//x"])
def test_unusual_names_are_paths(path: str) -> None:
    assert configure(Options, [f"--out_dir={path}"]).out_dir == path


@pytest.mark.parametrize("name", ["init_from_checkpoint", "transfer.init_from_checkpoint"])
def test_an_empty_path_on_the_command_line_is_not_taken_for_none(name: str) -> None:
    assert error_of(f"--{name}=") == (f"--{name}=: got '', wanted a path or None (is a variable of the shell not set?)")
    assert from_py("init_from_checkpoint = ''\n").init_from_checkpoint == ""  # as in the train_run line's configs


def test_a_variable_that_is_not_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNS", raising=False)
    assert error_of("--out_dir=$RUNS/a") == (
        "--out_dir=$RUNS/a: out_dir: got '$RUNS/a', wanted a path whose variables are set; $RUNS is not"
    )
    assert configure(SampleOptions, ["--start=$RUNS ~"]).start == "$RUNS ~"  # a prompt is not a path


@pytest.mark.parametrize("text", ["out\new", "a\tb", "a\x1b[31m", "a\x00", "a\rb"])
def test_control_characters_are_refused_and_shown_escaped(text: str) -> None:
    message = error_of(f"--out_dir={text}")
    assert "wanted a text without control characters" in message and repr(text)[1:-1] in message
    assert message.isprintable()
    assert configure(SampleOptions, [f"--start={text}"]).start == text


@pytest.mark.parametrize("flag", ["--out_dir=a", "--max_iters=3", "--compile=False", "--dtype=float32", "--device=cpu"])
def test_a_carriage_return_at_the_end_is_dropped(flag: str) -> None:
    """Of a shell script with Windows line ends."""
    assert configure(Options, [f"{flag}\r"]) == configure(Options, [flag])


def test_a_windows_path_that_is_no_python_text_gets_its_line_and_advice() -> None:
    line = "out_dir = 'C:\\Users\\me'"
    message = error_of(write("x.py", f"batch_size = 3\n{line}\n"))
    assert message.startswith("x.py:2: (unicode error) ") and line in message
    assert message.endswith("; write a path as r'C:\\...' or with /")


# random typos


def typos(count: int, random_seed: int) -> Iterator[tuple[str, str]]:
    """Yield pairs of a one-edit typo and the option's name; typos are distinct valid Python names."""
    draw, letters, known = random.Random(random_seed), string.ascii_lowercase + "_", {*NAMES, *Options.ALIASES}
    while count:
        name = draw.choice(NAMES)
        at, letter = draw.randrange(len(name)), draw.choice(letters)
        typo = draw.choice(
            [
                name[:at] + letter + name[at:],
                name[:at] + name[at + 1 :],
                name[:at] + letter + name[at + 1 :],
                name[:at] + name[at + 1 : at + 2] + name[at] + name[at + 2 :],
            ]
        )
        if typo not in known and typo.isidentifier() and not keyword.iskeyword(typo) and not typo.startswith("_"):
            known.add(typo)
            count -= 1
            yield typo, name


def test_a_thousand_typos_on_the_command_line_get_the_right_suggestion() -> None:
    cases = list(typos(1000, 1337))

    lines = error_of(*(f"--{typo}=1" for typo, _ in cases)).splitlines()

    assert len(lines) == 1000
    for line, (typo, _) in zip(lines, cases, strict=True):
        assert line.startswith(f"--{typo}=1: unknown option '{typo}'")
    correct = [name in re.findall(r"'(\w+)'", line)[1:] for line, (_, name) in zip(lines, cases, strict=True)]
    assert sum(correct) >= 950


def test_a_thousand_typos_in_a_config_file_get_the_right_suggestion() -> None:
    cases = list(typos(1000, 7331))
    write("x.py", "".join(f"{typo} = 1\n" for typo, _ in cases))

    lines = error_of("x.py").splitlines()

    expected = [
        f"x.py:{number}: unknown option '{typo}', did you mean '{name}'?"
        for number, (typo, name) in enumerate(cases, start=1)
    ]
    messages = {line.split(" (")[0] for line in lines}
    assert len(lines) >= 950 and sum(line in messages for line in expected) >= 950


# --help and --print_config


def printed(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        configure(Options, argv)
    assert caught.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_every_option_with_its_meaning(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed([flag], capsys)

    for name, field in Options.model_fields.items():
        assert f"--{name}=" in text and field.description and field.description in " ".join(text.split())
    assert re.findall(r"^(\w+):$", text, re.MULTILINE) == list(Options.sections())
    assert "--batch_size=12  [int >= 1]" in text
    assert "--attention_type=auto  ['auto' or 'causal' or 'bidirectional']" in text


def test_help_can_list_one_section(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(["--help", "optimizer"], capsys)

    assert re.findall(r"^  --(\w+)=", text, re.MULTILINE) == [
        "optimizer_type",
        "learning_rate",
        "weight_decay",
        "beta1",
        "beta2",
    ]


def test_help_of_an_unknown_section_is_refused() -> None:
    message = error_of("--help", "transfr")

    assert message.startswith("--help transfr: unknown section, wanted one of run, evaluation, ")


def test_help_ignores_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--batch_size" in printed(["--bogus=1", "none.py", "--help"], capsys)


def test_print_config_shows_values_and_origins(capsys: pytest.CaptureFixture[str]) -> None:
    write("x.py", "# mine\nbatch_size = 3\nmin_lr = learning_rate / 10\n")
    write("y.yaml", "model: {n_layer: 4}\n")

    text = printed(["x.py", "y.yaml", "--print_config", "--wandb_run_name=it's", "--training.grad_clip=0"], capsys)

    assert "batch_size = 3  # x.py:2\n" in text
    assert f"min_lr = {6e-4 / 10}  # x.py:3\n" in text
    assert "n_layer = 4  # y.yaml\n" in text
    assert "wandb_run_name = \"it's\"  # --wandb_run_name=it's\n" in text
    assert "grad_clip = 0.0  # --training.grad_clip=0\n" in text
    assert "n_head = 12  # default\n" in text


def test_a_printed_config_is_a_config_file(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--batch_size=3", "--wandb_run_name=a", "--bias=True"]
    table = printed([*flags, "--print_config"], capsys).split("Overriding: bias = True\n")[1]

    assert from_py(table) == configure(Options, flags)


def test_print_config_does_not_hide_errors() -> None:
    assert error_of("--print_config", "--batch_sise=3").startswith("--batch_sise=3: unknown option")


def test_help_takes_at_most_a_second_longer_than_importing_torch(folder: Path) -> None:
    def seconds(*command: str | Path) -> tuple[float, "subprocess.CompletedProcess[str]"]:
        start = os.times()
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
        end = os.times()  # CPU time depends little on other processes
        return (end.children_user - start.children_user) + (end.children_system - start.children_system), done

    extra_seconds = []
    while len(extra_seconds) < 3 and min(extra_seconds, default=9.0) >= 1:  # up to three attempts on a busy machine
        used, done = seconds(ROOT / "train.py", "--help")
        extra_seconds.append(used - seconds("-c", "import torch")[0])

    assert (done.returncode, done.stderr) == (0, "")
    assert "--batch_size=12" in done.stdout
    assert min(extra_seconds) < 1


# exec(open("configurator.py").read()), as in nanoGPT's scripts

FORK = """
import time

rate = 0.5
steps = 10
name = 'mine'
quick = False
compile = True # hides Python's own
top = None
_hidden = 1
exec(open('configurator.py').read())
print([rate, steps, name, quick, compile, top, _hidden])
"""


@pytest.fixture
def fork(folder: Path) -> Path:
    """Return a folder with another script and links to our files."""
    for name in ("configurator.py", "core", "config"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "fork.py").write_text(FORK)
    return folder


def run_fork(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run `python fork.py argv` in this process and return its globals."""
    monkeypatch.setattr(sys, "argv", ["fork.py", *argv])
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(FORK, names)
    return names


@nanogpt_exec
def test_exec_overrides_globals(
    fork: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write("mine.py", "steps = steps * 2\nhelper = 3\nquick = steps > helper\n")
    write("mine.yaml", "rate: 1e-3\n")
    argv = ["mine.py", "--rate=1", "--name=007", "--compile=False", "--top=5", "--helper=4", "mine.yaml"]

    run_fork(argv, monkeypatch)

    assert capsys.readouterr().out == (
        "Overriding config with mine.py:\nsteps = steps * 2\nhelper = 3\nquick = steps > helper\n\n"
        "Overriding: rate = 1.0\nOverriding: name = 007\nOverriding: compile = False\nOverriding: top = 5\n"
        "Overriding: helper = 4\nOverriding config with mine.yaml:\nrate: 1e-3\n\n"
        "[0.001, 20, '007', True, False, 5, 1]\n"
    )


@nanogpt_exec
def test_exec_without_arguments_changes_nothing(
    fork: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = run_fork([], monkeypatch)

    assert capsys.readouterr().out == "[0.5, 10, 'mine', False, True, None, 1]\n"
    assert names["time"] is time and names["__name__"] == "__main__"


@nanogpt_exec
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--stesp=3"], "--stesp=3: unknown option 'stesp', did you mean 'steps'?"),
        (["--_hidden=3"], "--_hidden=3: unknown option '_hidden'"),
        (["--time=3"], "--time=3: unknown option 'time'"),
        (["--steps=0.5"], "--steps=0.5: steps: got '0.5', wanted int"),
        (["--quick=1"], "--quick=1: quick: got '1', wanted bool"),
        (["typo.py"], "typo.py:1: unknown option 'nmae', did you mean 'name'?"),
        (["none.py"], "cannot read config file none.py: No such file or directory"),
    ],
)
def test_errors_of_exec_end_the_script_with_status_2(
    argv: list[str],
    message: str,
    fork: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write("typo.py", "nmae = 'x'\n")

    with pytest.raises(SystemExit) as caught:
        run_fork(argv, monkeypatch)

    out, err = capsys.readouterr()
    assert caught.value.code == 2
    assert err.startswith(f"error: {message}") and "mine" not in out


def test_errors_of_exec_end_a_separate_process_with_status_2(fork: Path) -> None:
    done = subprocess.run([sys.executable, "fork.py", "--steps=3", "--qwick=True"], capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (2, "Overriding: steps = 3\n")
    assert done.stderr == "error: --qwick=True: unknown option 'qwick', did you mean 'quick'?\n"
