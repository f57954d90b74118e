"""Fine-tuning on rows of text: exact resume, the mean over the labels of an update, packing, ranks, mistakes."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForSeq2SeqLM

import coregpt
import train
from benchmark.soak.campaign import ranks
from core.checkpoint.find import find_latest_checkpoint
from core.checkpoint.format import load_checkpoint
from tests.hf.conftest import WORDS
from tools.run_hash import run_hash

ARGV = ["--device=cpu", "--compile=False", "--dtype=float32", "--block_size=32", "--batch_size=3", "--eval_iters=2"]
ARGV += ["--gradient_accumulation_steps=2", "--warmup_iters=0", "--learning_rate=1e-2", "--lr_schedule=constant"]
ARGV += ["--eval_interval=4", "--log_interval=3"]


def write_rows(path: Path, count: int = 40, **more: Any) -> Path:
    """Write rows with a text, a prompt and a response of uneven lengths, and a number."""
    draw = random.Random(3)
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            words = [draw.choice(WORDS[:12]) for _ in range(draw.randint(2, 14))]
            half = len(words) // 2
            prompt, response = " ".join(words[:half]) or "the", " " + " ".join(words[half:])
            row = {"number": number, "text": " ".join(words), "prompt": prompt, "response": response, **more}
            file.write(json.dumps(row) + "\n")
    return path


@pytest.fixture
def rows(place: Path) -> Path:
    return write_rows(place / "rows.jsonl").relative_to(place)


class Batches(coregpt.Callback):
    """Keeps the batches that a run trains on."""

    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []
        self.shares: list[float] = []  # the loss of each micro-batch, whose mean is that of the update
        self.losses: list[float] = []  # as reported

    def on_train_begin(self, trainer: Any) -> None:
        objective = trainer.step.objective

        def recorded(model: Any, batch: Any, train: bool) -> Any:
            found = objective(model, batch, train)
            if train:
                self.seen.append(batch)
                self.shares.append(found.loss.item())
            return found

        trainer.step.objective = recorded

    def on_step_end(self, trainer: Any, result: Any) -> None:
        self.losses.append(result.mean_loss.item())


KINDS = {
    "pairs": [],
    "texts": ["--text_column=text"],
    "packed": ["--text_column=text", "--packing=True"],
    "streamed": ["--streaming=True", "--shuffle_buffer=16"],
    "streamed-packed": ["--streaming=True", "--shuffle_buffer=16", "--text_column=text", "--packing=True"],
    "buffer-beyond-the-data": ["--streaming=True", "--shuffle_buffer=1000"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_run_ends_on_the_same_bits(rows: Path, kind: str) -> None:
    """Interrupted in the first epoch and in the second one: 36 rows, 6 for each update."""
    argv = [*ARGV, f"--dataset={rows}", *KINDS[kind]]
    whole, first, second, third = Batches(), Batches(), Batches(), Batches()
    train.main(["--init_from=hf:gpt2", *argv, "--max_iters=14", "--out_dir=whole"], [whole])
    train.main(["--init_from=hf:gpt2", *argv, "--max_iters=3", "--out_dir=parts"], [first])
    for last, seen in ((8, second), (14, third)):
        train.main(["--init_from=resume", *argv, f"--max_iters={last}", "--out_dir=parts"], [seen])

    assert run_hash(Path("parts")) == run_hash(Path("whole"))
    ids = [batch["input_ids"].tolist() for run in (first, second, third) for batch in run.seen]
    assert ids == [batch["input_ids"].tolist() for batch in whole.seen] and len(ids) == 30


def test_the_loss_is_the_mean_over_all_labels_of_an_update(rows: Path) -> None:
    """However unequal the micro-batches are; the gradient is that of this mean, too."""
    seen = Batches()
    settings = ["--max_iters=0", "--dropout=0.0", "--grad_clip=0.0", "--gradient_accumulation_steps=4"]
    run = coregpt.train(["--init_from=hf:gpt2", *ARGV, f"--dataset={rows}", *settings], callbacks=[seen])
    start = coregpt.load("out", device="cpu", checkpoint=find_latest_checkpoint("out"))
    assert run.model is not None and start.model is not None

    from extras.hugging_face.loading import load_model

    model = load_model("gpt2", torch.device("cpu"), "sdpa", 0.0).model.transformer
    total, labels = torch.zeros(()), 0
    for batch in seen.seen[:4]:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        targets = batch["labels"][:, 1:]
        total = total + F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        labels += int((targets != -100).sum())
    assert abs(sum(seen.shares[:4]) / 4 - (total / labels).item()) < 1e-5
    assert abs(seen.losses[0] - (total / labels).item()) < 0.5  # the mean of the micro-batches' means
    counts = [int((batch["labels"] != -100).sum()) for batch in seen.seen[:4]]
    assert len(set(counts)) > 1  # a mean of means would be another number


def test_two_ranks_make_the_same_update_as_one(rows: Path) -> None:
    settings = [f"--dataset={rows}", "--max_iters=2", "--dropout=0.0", "--gradient_accumulation_steps=4"]
    argv = ["--init_from=hf:gpt2", *ARGV, *settings]
    train.main([*argv, "--out_dir=one"])
    assert ranks(lambda: train.main([*argv, "--out_dir=two"])) == [0, 0]  # type: ignore[arg-type,return-value]

    one, two = (load_checkpoint(coregpt.find_latest_checkpoint(name))["model"] for name in ("one", "two"))
    assert max((two[name] - weight).abs().max().item() for name, weight in one.items()) < 1e-3


def test_a_packed_epoch_has_the_labels_and_the_loss_of_an_unpacked_one(
    rows: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def pairs(run: Batches) -> list[tuple[int, int]]:
        """Return (token before, label) of everything that is learnt."""
        found = []
        for batch in run.seen:
            for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
                found += [(int(ids[i - 1]), int(labels[i])) for i in range(1, len(labels)) if labels[i] != -100]
        return sorted(found)

    kept = ["--text_column=text", "--learning_rate=0.0", "--min_lr=0.0", "--dropout=0.0", "--batch_size=1"]
    argv = ["--init_from=hf:gpt2", *ARGV, f"--dataset={rows}", *kept, "--gradient_accumulation_steps=1"]
    plain, packed = Batches(), Batches()
    caplog.set_level("INFO", "coregpt")
    train.main([*argv, "--max_iters=35", "--out_dir=plain"], [plain])
    caplog.clear()
    train.main([*argv, "--max_iters=0", "--out_dir=probe", "--packing=True"])
    line = next(message for message in caplog.messages if message.startswith("data: train: "))
    packs = int(re.search(r"in (\d+) packs", line)[1])  # type: ignore[index]
    train.main([*argv, f"--max_iters={packs - 1}", "--out_dir=packed", "--packing=True"], [packed])

    assert packs < 30 and pairs(plain) == pairs(packed)
    sums = []
    for run in (plain, packed):
        share = [batch["loss_share"].item() for batch in run.seen]
        sums.append(sum(loss / part for loss, part in zip(run.shares, share, strict=True)) / len(pairs(run)))
    assert abs(sums[0] - sums[1]) < 1e-5


def test_a_t5_learns_responses_and_answers(place: Path, rows: Path) -> None:
    seen = Batches()
    argv = ["--init_from=hf:t5", "--tokenizer=gpt2", *ARGV, f"--dataset={rows}", "--max_target_length=16"]
    run = coregpt.train([*argv, "--max_iters=0", "--dropout=0.0"], callbacks=[seen])
    model = AutoModelForSeq2SeqLM.from_pretrained("t5", dtype=torch.float32)
    total, count = 0.0, 0
    for batch in seen.seen[:2]:
        labels = batch["labels"]
        known = labels.masked_fill(labels == -100, 0)
        inputs = torch.cat([torch.zeros(len(labels), 1, dtype=torch.long), known[:, :-1]], dim=1)  # start id 0
        logits = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], decoder_input_ids=inputs
        ).logits
        total += F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").item()
        count += int((labels != -100).sum())
    assert abs(sum(seen.shares[:2]) / 2 - total / count) < 1e-5
    assert run.stopped is None

    train.main(["--init_from=resume", *argv[1:], "--max_iters=3"])
    answer = coregpt.load("out", device="cpu").generate("the king", 5)
    assert isinstance(answer, str)


TEMPLATE = (
    "{% for m in messages %}{{ '<' + m.role[0] + '>' + m.content + '<|endoftext|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)


def test_a_chat_learns_the_assistants_turns(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    Path("chat.jinja").write_text(TEMPLATE)
    with open("chats.jsonl", "w") as file:
        for number in range(8):
            said = [
                ("user", f"the king {number}"),
                ("assistant", "love and war"),
                ("user", "and"),
                ("assistant", "night"),
            ]
            messages = [{"role": role, "content": text} for role, text in said]
            file.write(json.dumps({"messages": messages}) + "\n")
    argv = ["--init_from=hf:gpt2", *ARGV, "--dataset=chats.jsonl", "--block_size=32", "--max_iters=1"]
    with pytest.raises(coregpt.ConfigError, match="holds chats, and the tokenizer has no chat template: set chat_temp"):
        train.main(argv)
    caplog.set_level("INFO", "coregpt")
    seen = Batches()
    train.main([*argv, "--chat_template=chat.jinja", "--block_size=32"], [seen])
    tokenizer = coregpt.load("out", device="cpu").tokenizer
    learnt = {tokenizer.decode(row[row != -100].tolist()) for batch in seen.seen for row in batch["labels"]}
    assert learnt == {"love and war<|endoftext|>night<|endoftext|>"}
    Path("chat.jinja").write_text("{{ raise_exception('no system turn') }}")
    with pytest.raises(coregpt.DataError, match="no val row can be used|7 which the chat template refuses"):
        train.main([*argv, "--chat_template=chat.jinja"])


def test_a_text_that_spells_a_control_token_gives_ordinary_ids(place: Path) -> None:
    with open("rows.jsonl", "w") as file:
        for number in range(12):
            file.write(json.dumps({"text": f"the <|endoftext|> king {number}"}) + "\n")
    seen = Batches()
    train.main(["--init_from=hf:gpt2", *ARGV, "--dataset=rows.jsonl", "--max_iters=1"], [seen])

    pairs = [pair for batch in seen.seen for pair in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    rows = [row[mask.bool()] for row, mask in pairs]
    assert rows and all((row == 0).sum() == 1 and row[-1] == 0 for row in rows)


def test_a_pair_is_learnt_until_it_ends(place: Path) -> None:
    """The padding token is the end token: an answer that never ended would not have learnt it."""
    Path("rows.jsonl").write_text(json.dumps({"prompt": "the king", "response": " speaks"}) * 1 + "\n")
    with open("rows.jsonl", "a") as file:
        for _ in range(11):
            file.write(json.dumps({"prompt": "the king", "response": " speaks"}) + "\n")
    train.main(["--init_from=hf:gpt2", *ARGV, "--dataset=rows.jsonl", "--max_iters=40", "--dropout=0.0"])
    assert coregpt.load("out", device="cpu").generate("the king", 4, temperature=0.0).startswith(" speaks<|endoftext|>")


def test_mistakes_are_one_message_each(place: Path, rows: Path) -> None:
    write_rows(place / "other.jsonl", 5, extra=1)
    Path("empty.jsonl").write_text(json.dumps({"text": ""}) + "\n" + json.dumps({"text": " "}) + "\n")
    Path("broken.jsonl").write_text('{"text": "a"}\nnot json\n')
    Path("plain").mkdir()
    for file in (place / "gpt2").iterdir():
        if "token" not in file.name:
            (place / "plain" / file.name).write_bytes(file.read_bytes())
    wanted = ["--init_from=hf:gpt2"]
    for given, message in (
        ([*wanted, "--dataset=words", "--packing=True"], "packing: for data sets of rows, and dataset=words is none"),
        ([*wanted, "--dataset=gone.jsonl"], "dataset=gone.jsonl: there is no such file"),
        ([*wanted, "--dataset=hf:no/such-data"], "dataset=hf:no/such-data cannot be had ("),
        ([*wanted, "--dataset=broken.jsonl"], "dataset=broken.jsonl cannot be read: "),
        ([*wanted, "--dataset=empty.jsonl"], "dataset=empty.jsonl: no train row can be used (1 without text)"),
        ([*wanted, f"--dataset={rows}", "--text_column=txt"], "there is no column txt: the data set has the columns "),
        ([*wanted, f"--dataset={rows}", "--val_split=test"], "has no split test, only train: correct val_split"),
        ([*wanted, f"--dataset={rows}", "--min_quality_score=0.5"], "min_quality_score=0.5: there is no column quali"),
        (["--init_from=hf:plain", f"--dataset={rows}"], "rows of text need a tokenizer, and hf:plain has none: set "),
        (
            ["--init_from=scratch", f"--dataset={rows}"],
            "rows of text are for models of Hugging Face: set init_from=hf:",
        ),
        (
            ["--init_from=hf:t5", "--tokenizer=gpt2", f"--dataset={rows}", "--packing=True"],
            "packing=True is for causal",
        ),
        (["--init_from=hf:t5", "--dataset=words"], "has an encoder, which token bins have no inputs for: give rows"),
    ):
        with pytest.raises((coregpt.ConfigError, coregpt.DataError), match=re.escape(message)):
            train.main([*ARGV, *given])
        assert not Path("out").exists(), given
