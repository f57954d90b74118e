"""What has gone wrong for users of nanoGPT and of other trainers, run as they ran it: the right numbers or one message.

Each test makes its own input. The programs run in forks of this process; real ones where the process itself matters.
"""

import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from core import CheckpointManager
from data.meta import read_meta, write_meta
from tests.world.command_line import (
    ROOT,
    TINY,
    Ended,
    characters,
    end,
    kill_started,
    logged,
    losses,
    nanogpt_checkpoint,
    newest,
    sample,
    start,
    train,
    waiting_batch,
)
from tools.run_hash import run_hash

LETTERS = "--dataset=letters"
RESUME = "--init_from=resume"


@pytest.fixture(autouse=True)
def letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Enter a folder with data/letters, a data set of 10 characters. At the end no program goes on."""
    monkeypatch.chdir(tmp_path)
    characters("letters", "abcdefgh hgfedcba")
    yield
    kill_started()


def trained(folder: str, *flags: str, **environment: str) -> list[float]:
    """Train the tiny model on data/letters, and return the losses of its five updates."""
    assert train(LETTERS, f"--out_dir={folder}", *flags, **environment).status == 0
    return losses(folder)


def wait_for_updates(folder: str, count: int = 3) -> None:
    """Wait until a run has logged this many updates."""
    log, deadline = Path(folder, "metrics.jsonl"), time.monotonic() + 30
    while not log.exists() or log.read_text().count('"event": "step"') < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


LONG = ["--max_iters=1000000", "--eval_interval=1000000"]


# the environment that a job or a shell gives


def test_a_world_size_without_rank_is_one_process_with_all_micro_batches() -> None:
    alone = trained("alone", "--gradient_accumulation_steps=4")

    assert trained("in-job", "--gradient_accumulation_steps=4", WORLD_SIZE="4") == alone
    assert newest("in-job")["world_size"] == 1
    odd = train(LETTERS, "--out_dir=odd", WORLD_SIZE="2")
    assert odd.status == 0 and "tokens per iteration will be: 64\n" in odd.out


@pytest.mark.parametrize("rank", ["-1", ""])
def test_a_rank_that_nanogpt_takes_for_one_process_is_one_process(rank: str) -> None:
    assert trained("out", RANK=rank) == trained("alone")


@pytest.mark.parametrize("program", ["train.py", "sample.py"])
def test_a_rank_without_a_launcher_is_refused_with_the_missing_variable(program: str) -> None:
    trained("out")

    ended = end(start(program, "--device=cpu", "--out_dir=out", RANK="0", WORLD_SIZE="1"))

    assert re.search(r"RANK=0 is set, but not .*MASTER_ADDR.*torchrun", ended.message)


# token files


def test_ids_of_four_bytes_are_read_as_such() -> None:
    folder = Path("data/wide")
    folder.mkdir()
    for split in ("train", "val"):
        np.tile(np.array([70001, 90002, 100003], np.uint32), 400).tofile(folder / f"{split}.bin")
    write_meta(folder / "meta.pkl", {"vocab_size": 100277})

    assert train("--dataset=wide", "--n_embd=8", "--out_dir=out", "--max_iters=1").status == 0

    assert set(waiting_batch("out").unique().tolist()) == {70001, 90002, 100003}


WIDTHS: dict[str, tuple[type, str]] = {
    "int64": (np.int64, "looks like 8-byte integers"),
    "int32": (np.int32, "looks like 4-byte integers"),
    "npy": (np.uint16, "is a NumPy .npy file"),
}


@pytest.mark.parametrize("name", WIDTHS)
def test_integers_of_another_width_are_refused_with_a_command_for_them(name: str) -> None:
    ids, (dtype, kind) = np.arange(1200) % 9 + 1, WIDTHS[name]
    folder = Path("data/w")
    folder.mkdir()
    write_meta(folder / "meta.pkl", {"vocab_size": 12})
    for split in ("train", "val"):
        with open(folder / f"{split}.bin", "wb") as file:
            np.save(file, ids.astype(dtype)) if name == "npy" else ids.astype(dtype).tofile(file)

    message = train("--dataset=w", "--out_dir=out").message
    assert kind in message and not Path("out").exists()
    (command,) = re.findall(r'python -c "(.*?)"', message)
    for split in ("train", "val"):
        exec(command.replace("train.bin", f"{split}.bin"))

    assert train("--dataset=w", "--out_dir=out").status == 0
    batch = waiting_batch("out")
    assert torch.equal(batch[:, 1:], batch[:, :-1] % 9 + 1)


def test_an_id_far_into_the_file_is_named_and_refused() -> None:
    far = 2**28
    folder = Path("data/late")
    folder.mkdir()
    with open(folder / "train.bin", "wb") as file:  # takes little of the disk: the beginning is a hole
        file.seek(2 * far)
        file.write(np.full(2**20, 60, np.uint16).tobytes())
    np.zeros(4000, np.uint16).tofile(folder / "val.bin")
    write_meta(folder / "meta.pkl", {"vocab_size": 50})

    message = train("--dataset=late", "--out_dir=out").message

    assert "data/late/train.bin holds token id 60, at position 268,435,456, but the model has ids below 50" in message


def remove_val() -> None:
    Path("data/letters/val.bin").unlink()


def replace_train() -> None:
    (np.arange(4000) % 200).astype(np.uint16).tofile("data/letters/new")
    os.replace("data/letters/new", "data/letters/train.bin")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (remove_val, "cannot read data/letters/val.bin (No such file"),
        (replace_train, ", but the model has ids below 10"),
    ],
)
def test_data_that_change_in_mid_run_end_it_with_its_work_saved(change: Callable[[], None], words: str) -> None:
    run = start("train.py", *TINY, LETTERS, "--out_dir=out", "--max_iters=1000000", "--eval_interval=300")
    wait_for_updates("out")
    change()

    ended = end(run)

    assert words in ended.message and "an error ends the run: saved at iteration" in ended.err
    assert newest("out")["iter_num"] == logged("out")[-1]["iter"] + 1


# tokens and text


def test_text_needs_no_meta_beside_a_checkpoint_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    trained("out")
    text = sample("--out_dir=out", "--start=abc").text
    Path("data/letters/meta.pkl").unlink()

    assert sample("--out_dir=out", "--start=abc").text == text and text.startswith("abc")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert sample("--out_dir=../out", "--start=abc").text == text


def test_a_vanished_meta_is_named_for_a_checkpoint_of_nanogpt() -> None:
    nanogpt_checkpoint("out")
    Path("data/letters/meta.pkl").unlink()

    message = sample("--out_dir=out", "--start=abc").message

    assert "the model has 10 tokens, not GPT-2's" in message and "data/letters/meta.pkl is not there" in message


def test_a_prompt_of_characters_that_the_model_has_not_learnt_is_refused() -> None:
    trained("ours")
    nanogpt_checkpoint("theirs")
    text = sample("--out_dir=ours", "--start=ab").text
    characters("letters", "abcdefgh hgfedcba", "The quick brown fox jumps over the lazy dog.")

    assert "10 characters lack 'x', 'y', 'z'" in sample("--out_dir=ours", "--start=xyz").message
    again = sample("--out_dir=ours", "--start=ab")
    assert again.text == text and "has other tokens than the model" in again.err
    assert "is none of the model's 10" in sample("--out_dir=theirs", "--start=xyz").message
    assert "30 tokens, but the model has 10: the text may be wrong" in sample("--out_dir=theirs", "--start=T").err
    for folder in ("ours", "theirs"):
        assert "data/letters/meta.pkl: " in train(LETTERS, f"--out_dir={folder}", RESUME).message


def test_another_alphabet_of_the_same_size_is_not_the_models() -> None:
    trained("out")
    text = sample("--out_dir=out", "--start=ab").text
    characters("letters", "stuvwxyz zyxwvuts")

    again = sample("--out_dir=out", "--start=ab")

    assert again.text == text and "data/letters/meta.pkl has other tokens than the model" in again.err
    assert "has learnt other tokens" in train(LETTERS, "--out_dir=out", RESUME).message


# checkpoints of other programs


def test_an_untied_head_is_refused_and_not_loaded_into_the_tied_one() -> None:
    def untie(content: dict[str, Any]) -> None:
        content["model"]["lm_head.weight"] = nn.Linear(32, 10, bias=False).weight.detach()

    nanogpt_checkpoint("out", untie)

    for ended in (train(LETTERS, "--out_dir=out", RESUME, "--eval_only=True"), sample("--out_dir=out", "--start=abc")):
        assert "transformer.wte.weight and lm_head.weight differ in the checkpoint" in ended.message


def test_weights_with_a_nan_are_refused_by_name() -> None:
    nanogpt_checkpoint("out", lambda c: c["model"]["transformer.h.1.mlp.c_fc.weight"][3, 5].fill_(float("nan")))

    for ended in (
        sample("--out_dir=out", "--start=abc"),
        train(LETTERS, "--out_dir=out", RESUME, "--eval_only=True"),
        train(LETTERS, "--out_dir=out", RESUME),
    ):
        assert "holds weights that are NaN or infinite: transformer.h.1.mlp.c_fc.weight" in ended.message
        assert "iter 3" not in ended.out


def test_a_checkpoint_behind_a_link_is_read_as_the_file() -> None:
    nanogpt_checkpoint("plain")
    nanogpt_checkpoint("hub/blobs")
    Path("hub/main").mkdir()
    Path("hub/blobs/ckpt.pt").rename("hub/blobs/4f1d2c")
    Path("hub/main/ckpt.pt").symlink_to("../blobs/4f1d2c")
    evaluated = []

    for folder, new in (("plain", "from-plain"), ("hub/main", "from-hub")):
        ended = train(LETTERS, f"--out_dir={folder}", RESUME, "--eval_only=True")
        evaluated += re.findall(r"^step 3: train loss \S+, val loss \S+$", ended.out, re.MULTILINE)
        begin = [f"--init_from_checkpoint={folder}", f"--out_dir={new}", "--n_layer=2", "--bias=True"]
        assert train(LETTERS, *begin).status == 0

    assert sample("--out_dir=hub/main", "--start=abc").text == sample("--out_dir=plain", "--start=abc").text
    assert len(evaluated) == 2 and evaluated[0] == evaluated[1]
    assert losses("from-hub") == losses("from-plain")
    assert Path("hub/main/ckpt.pt").is_symlink()


def saved_masks(content: dict[str, Any]) -> None:
    mask = torch.ones(16, 16).tril().view(1, 1, 16, 16)
    content["model"] |= {f"_orig_mod.transformer.h.{layer}.attn.bias": mask for layer in range(2)}


def sorted_by_name(content: dict[str, Any]) -> None:
    """Give the moments the order in which nanoGPT handed its parameters to AdamW before May 2023."""
    names = [name for name in content["model"] if name != "lm_head.weight"]
    matrices, vectors = ([n for n in names if (content["model"][n].dim() > 1) == kind] for kind in (True, False))
    state, now = content["optimizer"]["state"], [*matrices, *vectors]
    then = [*sorted(matrices), *sorted(vectors)]
    assert now != then
    content["optimizer"]["state"] = {number: state[now.index(name)] for number, name in enumerate(then)}


def leaving_out(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content["model"].pop(name)


@pytest.mark.parametrize(
    "edit",
    [saved_masks, sorted_by_name, leaving_out("lm_head.weight"), leaving_out("transformer.wte.weight")],
    ids=["saved masks", "moments sorted by name", "no head", "no token embedding"],
)
def test_older_and_smaller_files_give_the_text_and_the_losses_of_todays(edit: Callable[[dict[str, Any]], Any]) -> None:
    nanogpt_checkpoint("today")
    nanogpt_checkpoint("other", edit)

    assert sample("--out_dir=other", "--start=abc").text == sample("--out_dir=today", "--start=abc").text
    for folder in ("today", "other"):
        assert train(LETTERS, f"--out_dir={folder}", RESUME, "--max_iters=6").status == 0
    assert losses("other") == losses("today") and len(losses("other")) == 4


@pytest.mark.parametrize("lacking", [["optimizer"], ["optimizer", "iter_num", "best_val_loss"]])
def test_weights_without_an_optimizer_train_on_with_fresh_moments(lacking: list[str]) -> None:
    nanogpt_checkpoint("out", lambda content: [content.pop(name) for name in lacking])

    ended = train(LETTERS, "--out_dir=out", RESUME, "--max_iters=6")

    assert ended.status == 0 and ended.err.count("the checkpoint lacks optimizer") == 1
    first = 0 if "iter_num" in lacking else 3
    assert [line["iter"] for line in logged("out")] == list(range(first, 7))


def test_weights_without_an_optimizer_begin_a_new_run() -> None:
    model = nanogpt_checkpoint("old", lambda content: content.pop("optimizer"))
    begin = ["--init_from_checkpoint=old", "--out_dir=new", "--n_layer=2", "--bias=True"]

    assert train(LETTERS, *begin, "--learning_rate=0", "--min_lr=0", "--max_iters=0").status == 0

    saved = torch.load(CheckpointManager("new").load().path, weights_only=True)["model"]
    assert all(torch.equal(saved[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (None, ""),
        (dict(activation_function="relu"), 'activation_function "relu", wanted gelu'),
        (dict(n_inner=64), "n_inner 64, wanted"),
        (dict(tie_word_embeddings=False), "tie_word_embeddings false, wanted true"),
        (dict(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx true, wanted false"),
        (dict(model_type="llama"), "model_type 'llama', wanted 'gpt2'"),
    ],
)
def test_the_folder_of_a_model_that_is_no_plain_gpt2_is_refused(changes: dict[str, Any] | None, words: str) -> None:
    pytest.importorskip("transformers")
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = dict(vocab_size=50, n_positions=16, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(GPT2Config(**shape)).save_pretrained("hf")
    settings = json.loads(Path("hf/config.json").read_text())
    Path("hf/config.json").write_text(json.dumps({**settings, **(changes or {})}))

    ended = train(LETTERS, "--out_dir=out", "--init_from=hf", "--eval_only=True", "--bias=True")

    if changes is None:
        assert ended.status == 0 and "step 0: train loss " in ended.out
    else:
        assert words in ended.message


# a run that goes on


def test_new_data_have_a_best_loss_of_their_own() -> None:
    """The lowest loss on the easy text cannot be reached on the other, whose letters are drawn at random."""
    drawn = random.Random(1)
    characters("easy", "a" * 31 + "b")
    characters("hard", "".join(drawn.choice("ab") for _ in range(900)))
    flags = ["--out_dir=out", "--eval_interval=40", "--learning_rate=1e-2", "--always_save_checkpoint=False"]
    assert train("--dataset=easy", *flags, "--max_iters=120").status == 0
    assert newest("out")["lowest_val_loss"] < 0.4

    assert train("--dataset=hard", *flags, "--max_iters=240", RESUME).status == 0

    linked = torch.load("out/ckpt.pt", weights_only=True)
    assert linked["config"]["dataset"] == "hard" and linked["iter_num"] > 120 and linked["best_val_loss"] > 0.6
    text = sample("--out_dir=out", "--start=a", "--max_new_tokens=60").text
    assert text.count("b") > 10


def test_a_resume_says_what_it_does_not_take_from_the_command_line() -> None:
    trained("out")

    def again(*flags: str) -> Ended:
        shutil.rmtree("copy", ignore_errors=True)
        shutil.copytree("out", "copy")
        return train(LETTERS, "--out_dir=copy", RESUME, *flags)

    decay = again("--max_iters=6", "--weight_decay=0.5", "--beta2=0.9")
    assert "weight_decay" in decay.err and "beta2" in decay.err and decay.status == 0
    assert "resume: max_iters=8 is beyond lr_decay_iters=4" in again("--max_iters=8").err
    done = again("--max_iters=2")
    assert done.status == 0 and "nothing to do" in done.err
    assert "block_size=32 is more than the" in again("--block_size=32").message
    wide = again("--max_iters=6", "--n_embd=64", "--n_layer=3")
    assert wide.status == 0 and "n_embd" in wide.err and "n_layer" in wide.err


@pytest.mark.parametrize("shape", ["cosine", "linear", "wsd"])
def test_a_schedule_without_a_decay_ends_its_warm_up_at_the_peak(shape: str) -> None:
    flags = [f"--lr_schedule={shape}", "--warmup_iters=4", "--lr_decay_iters=4", "--min_lr=1e-4", "--max_iters=6"]

    quiet = train(LETTERS, "--out_dir=out", *flags)
    warned = train(LETTERS, "--out_dir=past", *flags, "--lr_decay_iters=2")

    assert [line["lr"] for line in logged("out")] == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 1e-3, 1e-4, 1e-4])
    assert quiet.status == warned.status == 0 and "warmup_iters" not in quiet.err
    assert "warmup_iters=4 is above lr_decay_iters=2" in warned.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_run_whose_terminal_or_job_ends_is_saved(number: int, no_nohup: None) -> None:
    run = start("train.py", *TINY, LETTERS, "--out_dir=out", *LONG)
    wait_for_updates("out", 5)
    os.kill(run, number)

    ended = end(run)

    assert ended.status == 75 and "Traceback" not in ended.err
    assert newest("out")["iter_num"] == logged("out")[-1]["iter"] + 1 >= 5


def test_a_closed_terminal_does_not_stop_a_run_under_nohup() -> None:
    usual = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    run = start("train.py", *TINY, LETTERS, "--out_dir=out", "--max_iters=300", "--eval_interval=300")
    signal.signal(signal.SIGHUP, usual)
    wait_for_updates("out", 5)
    os.kill(run, signal.SIGHUP)

    assert end(run).status == 0 and len(losses("out")) == 301


# the terminal and the pipe


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_output_that_the_terminal_cannot_show_has_replaced_characters(encoding: str) -> None:
    characters("accents", "café déjà vu — über")
    Path("x.py").write_text("# 学习率 (learning rate)\nlearning_rate = 1e-3\n", encoding="utf-8")
    flags, start_with = ["--dataset=accents", "x.py"], "--start=café"
    assert train(*flags, "--out_dir=plain").status == 0

    assert end(start("train.py", *TINY, *flags, "--out_dir=out", encoding=encoding)).status == 0
    shown = end(start("sample.py", "--device=cpu", "--num_samples=1", "--out_dir=out", start_with, encoding=encoding))

    assert losses("out") == losses("plain")
    assert run_hash("out") == run_hash("plain")
    whole = end(start("sample.py", "--device=cpu", "--num_samples=1", "--out_dir=out", start_with)).text
    expected = whole.encode(encoding, "replace").decode(encoding)
    assert shown.status == 0 and (expected in shown.out if encoding == "ascii" else "?" not in expected)


def test_preparing_prints_characters_that_the_terminal_lacks() -> None:
    Path("text.txt").write_text("café über —\n" * 100, encoding="utf-8")

    script, flags = "data/shakespeare_char/prepare.py", ["--input", "text.txt", "--out", "made"]
    ended = end(start(script, *flags, encoding="ascii"))

    assert ended.status == 0 and "abcefr???" in ended.out
    assert "é" in read_meta("made/meta.pkl")["stoi"]


def test_a_run_without_a_stdout_trains() -> None:
    command = shlex.join([sys.executable, str(ROOT / "train.py"), *TINY, LETTERS, "--out_dir=out"])

    shell = subprocess.run(["bash", "-c", f"{command} >&-"], capture_output=True, text=True, timeout=100)

    assert shell.returncode == 0 and "Traceback" not in shell.stderr
    assert losses("out") == trained("plain")


def test_a_reader_that_stops_early_does_not_stop_a_run() -> None:
    command = [
        sys.executable,
        ROOT / "train.py",
        *TINY,
        LETTERS,
        "--out_dir=out",
        "--max_iters=300",
        "--eval_interval=100",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout and run.stderr
        for _ in range(5):
            run.stdout.readline()
        run.stdout.close()
        err = run.stderr.read()

    assert run.returncode == 0 and "Traceback" not in err and "nobody reads stdout any more" in err
    assert len(losses("out")) == 301 and newest("out")["iter_num"] == 301


@pytest.mark.parametrize("command", [["sample.py", "--num_samples=200"], ["train.py", "--help"]])
def test_a_reader_that_stops_early_ends_printing_quietly(command: list[str]) -> None:
    trained("out")
    flags = ["--device=cpu", "--out_dir=out"] if command[0] == "sample.py" else []
    script, *rest = command
    line = shlex.join([sys.executable, str(ROOT / script), *rest, *flags])

    shell = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{line} | head -n 1"], capture_output=True, text=True, timeout=100
    )

    assert shell.returncode == 0 and len(shell.stdout.splitlines()) == 1
    assert "Traceback" not in shell.stderr and "Broken" not in shell.stderr


# options and config files

SAYS_NOTHING = {
    "dict.py": "config = dict(batch_size=3, n_layer=2)\n",
    "class.py": "class Config:\n    batch_size = 3\n    n_layer = 2\n",
    "function.py": "def config():\n    return {'batch_size': 3}\n",
    "comments.py": "# batch_size = 3\n",
}
SAYS_IT_OTHERWISE = {
    "run.json": '{"batch_size": 3, "n_layer": 2, "compile": false}\n',
    "flat.toml": "batch_size = 3\nn_layer = 2\n",
    "tables.toml": "batch_size = 3\n[model]\nn_layer = 2\n",
    "marked.py": "\ufeffbatch_size = 3\r\nn_layer = 2\r\n",
    "marked.yaml": "\ufeffbatch_size: 3\r\nn_layer: 2\r\n",
}


@pytest.mark.parametrize("name", SAYS_NOTHING)
def test_a_config_file_that_sets_no_option_is_refused(name: str) -> None:
    Path(name).write_text(SAYS_NOTHING[name])

    assert f"{name} sets no option: wanted lines such as `batch_size = 8`" in train(LETTERS, name).message


@pytest.mark.parametrize("name", SAYS_IT_OTHERWISE)
def test_config_files_of_other_forms_are_taken(name: str) -> None:
    Path(name).write_text(SAYS_IT_OTHERWISE[name], encoding="utf-8", newline="")

    ended = end(start("train.py", name, "--print_config"))

    values = dict(line.split("  # ")[0].split(" = ", 1) for line in ended.out.splitlines() if " = " in line)
    assert ended.status == 0 and (values["batch_size"], values["n_layer"]) == ("3", "2")


def test_byte_order_marks_are_no_tokens() -> None:
    Path("a.txt").write_text("\ufeffabcdefgh hgfedcba\n" * 1 + "abcdefgh hgfedcba\n" * 100, encoding="utf-8")
    Path("b.txt").write_text("\ufeffabc\n" + "hgf abc\n" * 100, encoding="utf-8")
    prepared = [*["a.txt", "b.txt", "--tokenizer", "char", "--name"], f"marks{os.getpid()}"]
    made = ROOT / "data" / prepared[-1]
    try:
        assert end(start("data/text/prepare.py", *prepared)).status == 0
        shutil.copytree(made, "data/marks")
    finally:
        shutil.rmtree(made, ignore_errors=True)
    assert set(read_meta("data/marks/meta.pkl")["stoi"]) == set("\n abcdefgh")
    assert train("--dataset=marks", "--out_dir=out").status == 0
    Path("prompt.txt").write_text("\ufeffabc", encoding="utf-8")

    assert sample("--out_dir=out", "--start=FILE:prompt.txt").text == sample("--out_dir=out", "--start=abc").text


def test_temperature_zero_takes_the_likeliest_token_for_every_seed() -> None:
    model = nanogpt_checkpoint("out").eval()
    chars = sorted(set("\n abcdefgh"))
    ids = torch.tensor([[chars.index(char) for char in "abc"]])
    for _ in range(20):
        ids = torch.cat([ids, model(ids[:, -16:])[0][:, -1].argmax(-1, keepdim=True)], dim=1)
    expected = "".join(chars[i] for i in ids[0].tolist()) + "\n---------------\n"

    for flags in (["--temperature=0"], ["--temperature=0", "--seed=2"], ["--top_k=1", "--seed=3"]):
        assert sample("--out_dir=out", "--start=abc", *flags).text == expected
    assert sample("--out_dir=out", "--start=abc", "--temperature=1e-40").text == expected


@pytest.mark.parametrize("flag", ["out_dir", "dataset", "init_from", "device", "batch_size", "dtype"])
def test_an_empty_value_is_refused_and_nothing_is_written(flag: str) -> None:
    before = sorted(Path().rglob("*"))

    message = train(LETTERS, "--out_dir=out", f"--{flag}=").message

    assert flag in message
    assert sorted(Path().rglob("*")) == sorted([*before, Path("stdout.txt"), Path("stderr.txt")])


def test_a_path_may_begin_with_a_tilde_or_a_variable() -> None:
    home = Path("home").resolve()
    home.mkdir()
    Path("x.py").write_text("out_dir = '~/runs/b'\n")
    Path("x.yaml").write_text("out_dir: $HOME/runs/c\n")
    for argument in ("--out_dir=~/runs/a", "x.py", "x.yaml"):
        assert train(LETTERS, argument, HOME=str(home)).status == 0
    (home / "prompt.txt").write_text("abc")

    assert sorted(path.name for path in (home / "runs").iterdir()) == ["a", "b", "c"]
    assert not {"~", "$HOME"} & set(os.listdir())
    text = sample("--out_dir=~/runs/a", "--start=FILE:~/prompt.txt", HOME=str(home)).text
    assert text == sample("--out_dir=home/runs/a", "--start=abc").text


def test_control_characters_get_into_no_name_and_no_message() -> None:
    Path("win.py").write_text("out_dir = 'out\\new\\tiny'\n")
    Path("user.py").write_text("out_dir = 'C:\\Users\\me'\n")
    Path("c.py").write_text("batch_size = 3\n")

    for argument in ("win.py", "user.py"):
        message = train(LETTERS, argument).message
        assert argument in message and "write a path as r'C:\\...' or with /" in message
        assert message.count("\n") == 1 and "\t" not in message
    returned = train(LETTERS + "\r", "--out_dir=out\r", "--max_iters=3\r", "--compile=False\r")
    assert returned.status == 0 and len(losses("out")) == 4
    assert "\r" not in train("--dataset=none\r", "c.py\r").message
    assert sorted(path.name for path in Path().iterdir() if path.is_dir()) == ["data", "out"]


@pytest.mark.parametrize(
    "argv",
    [["—max_iters=2"], ["–max_iters=2"], ["--—max_iters=2"], ["−−max_iters=2"], ["-max_iters=2"], ["--max_iters", "2"]]  # noqa: RUF001
    + [["--max_iters", "=", "2"], ["--max_iters =2"], ["--max-iters=2"], ["--MAX_ITERS=2"], ["max_iters=2"]],
)
def test_a_flag_with_other_dashes_is_refused_with_one_that_works(argv: list[str]) -> None:
    message = train(LETTERS, *argv).message

    (meant,) = re.findall(r"did you mean (--\S+?)\?", message)
    assert meant == "--max_iters=2" and train(LETTERS, meant).status == 0 and len(losses("out")) == 3


OF_OTHER_TRAINERS = {
    "lr": "learning_rate", "max_steps": "max_iters", "num_iterations": "max_iters", "epochs": None,
    "output_dir": "out_dir", "per_device_train_batch_size": "batch_size", "micro_batch_size": "batch_size",
    "n_layers": "n_layer", "num_heads": "n_head", "n_embed": "n_embd", "d_model": "n_embd",
    "context_length": "block_size", "seq_len": "block_size", "max_seq_len": "block_size",
    "warmup_steps": "warmup_iters", "max_grad_norm": "grad_clip", "resume": "init_from", "resume_from": "init_from",
    "eval_every": "eval_interval", "save_every": "save_interval", "bf16": "dtype",
    "data_dir": "dataset", "wd": "weight_decay",
}  # fmt: skip


def test_a_flag_of_another_trainer_is_refused_with_ours_or_none() -> None:
    message = train(*(f"--{name}=3" for name in OF_OTHER_TRAINERS)).message

    for line, (name, meant) in zip(message.splitlines(), OF_OTHER_TRAINERS.items(), strict=True):
        assert f"unknown option {name!r}" in line
        assert re.findall(r"did you mean '(\w+)'", line) == ([meant] if meant else [])


def test_a_config_of_training_can_be_given_to_sampling() -> None:
    Path("mine.py").write_text(
        "out_dir = 'out'; dataset = 'letters'; device = 'cpu'; compile = False; beta2 = 0.99\n"
        "n_layer = 1; n_head = 2; n_embd = 32; block_size = 16; batch_size = 4; max_iters = 4; eval_iters = 2\n"
        "gradient_accumulation_steps = 1; warmup_iters = 0; lr_decay_iters = 4; eval_interval = 2; wandb_log = False\n"
    )
    assert end(start("train.py", "mine.py")).status == 0
    flags = ["mine.py", "--num_samples=1", "--max_new_tokens=20", "--start=abc"]

    text = end(start("sample.py", *flags)).text
    assert text == sample("--out_dir=out", "--start=abc").text and text.startswith("abc")
    assert sample("--out_dir=out", "--start=abc", LETTERS).text == text
    scratch = end(start("sample.py", *flags, "--init_from=scratch")).message
    assert "init_from=scratch is not trained: add --init_from=resume" in scratch


# torchrun


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["config/train_shakespear_char.py"], "did you mean config/train_shakespeare_char.py?"),
        ([*TINY, LETTERS], "gradient_accumulation_steps=1 cannot be divided evenly"),
    ],
)
def test_a_mistake_under_torchrun_is_reported_once(flags: list[str], message: str) -> None:
    Path("config").symlink_to(ROOT / "config")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]

    done = subprocess.run([*torchrun, ROOT / "train.py", *flags], capture_output=True, text=True, timeout=100)

    assert done.returncode != 0 and done.stderr.count(message) == 1
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "name", ["config/train_shakespear_char.py", "config/train_shakespeare_char", "train_shakespeare_char.py"]
)
def test_the_nearest_config_file_is_named(name: str) -> None:
    Path("config").symlink_to(ROOT / "config")

    assert "did you mean config/train_shakespeare_char.py?" in end(start("train.py", name)).message
