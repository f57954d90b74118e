"""Fine-tuning models of images and text: labels and loss by hand, exact resume, what is refused, and answers."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor

import coregpt
import sample
import train
from benchmark.soak.campaign import ranks
from core.checkpoint.format import load_checkpoint
from tests.hf.test_rows import Batches
from tests.hf.tiny_images import ARGV, BEGIN, END, MARK, TEMPLATE, picture
from tools.export import export
from tools.merge_lora import merge_lora
from tools.run_hash import run_hash

MODELS = pytest.mark.parametrize("name", ["mllama", "llava"])


def argv(name: str, *more: str) -> list[str]:
    return [f"--init_from=hf:{name}", *ARGV, *more]


def write_rows(body: str) -> None:
    """Write a mine.py that returns `body` for both splits."""
    Path("mine.py").write_text(
        "from tests.hf.tiny_images import picture\n\n"
        f"def get_custom_dataset(dataset_config, processor, split, split_ratio=0.8):\n    return {body}\n"
    )


@MODELS
def test_labels_are_the_answers_and_their_ends(studio: Path, name: str) -> None:
    """Compared with rows that are put together by hand, a picture of a Llava being 4 tokens."""
    seen = Batches()
    train.main(argv(name, "--max_iters=4"), [seen])
    tokenizer = AutoProcessor.from_pretrained(name).tokenizer
    start, mark, end = tokenizer.convert_tokens_to_ids([BEGIN, MARK, END])
    words = ["the", "king", "queen", "speaks", "to", "me", "and", "you", "of", "war", "love", "night"]

    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    by_hand = {}
    for number in range(10):
        chosen = words[number % 5 : number % 5 + 3]
        asked = [start, *ids("[user]\n"), *[mark] * (1 if name == "mllama" else 4), *ids(" ".join(chosen)), end]
        asked += ids("[assistant]\n")
        answer = [*ids(" ".join(chosen[: number % 3 + 1])), end]
        row, labels = [*asked, *answer], [*[-100] * len(asked), *answer]
        if number % 4 == 0:
            again, learnt = [*ids("[user]\nand"), end, *ids("[assistant]\n")], [*ids("you"), end]
            row, labels = [*row, *again, *learnt], [*labels, *[-100] * len(again), *learnt]
        by_hand[tuple(row)] = labels
    trained = set()
    for batch in seen.seen:
        assert batch["pixel_values"].size(0) == 2 and batch["labels"].shape == batch["input_ids"].shape
        for row, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
            length = int(mask.sum())
            trained.add(tuple(row[:length].tolist()))
            assert by_hand[tuple(row[:length].tolist())] == labels[:length].tolist()
            assert (labels[length:] == -100).all() and (mask[:length] == 1).all()
    assert len(trained) == len(by_hand) == 10


@MODELS
def test_the_loss_is_that_of_a_computation_by_hand(studio: Path, name: str) -> None:
    """The mean over all labels of an update, and of an image's own picture: another one gives another loss."""
    seen = Batches()
    train.main(argv(name, "--max_iters=0", "--gradient_accumulation_steps=3"), [seen])
    model = AutoModelForImageTextToText.from_pretrained(name, dtype=torch.float32).eval()
    total, other, count = 0.0, 0.0, 0
    with torch.no_grad():
        for batch in seen.seen[:3]:
            inputs = {key: value for key, value in batch.items() if key not in ("labels", "loss_share")}
            targets = batch["labels"][:, 1:]
            for changed in (False, True):
                pixels = inputs["pixel_values"].flip(0) if changed else inputs["pixel_values"]
                logits = model(**{**inputs, "pixel_values": pixels}).logits[:, :-1]
                chosen = logits.log_softmax(-1).gather(2, targets.clamp(min=0)[..., None])[..., 0]
                found = -chosen[targets != -100].sum().item()
                total, other = total + found * (not changed), other + found * changed
            count += int((targets != -100).sum())

    assert abs(sum(seen.shares[:3]) / 3 - total / count) < 1e-5
    assert abs(total - other) / count > 1e-3


def test_an_interrupted_run_ends_on_the_same_bits(studio: Path) -> None:
    """Interrupted twice, the second time in a later epoch; the base is not needed for a resume."""
    short = ["--eval_interval=5", "--eval_iters=1"]
    train.main(argv("mllama", *short, "--max_iters=6", "--out_dir=whole"))
    train.main(argv("mllama", *short, "--max_iters=1", "--out_dir=parts"))
    (studio / "mllama").rename(studio / "elsewhere")
    for last in (4, 6):
        train.main(["--init_from=resume", *ARGV, *short, f"--max_iters={last}", "--out_dir=parts"])

    assert run_hash(Path("parts")) == run_hash(Path("whole"))


def test_a_model_whose_inner_layer_is_read_trains_on_two_ranks(studio: Path) -> None:
    """A Llava leaves its last layer of vision without a gradient."""
    one = argv("llava", "--max_iters=2", "--out_dir=one")
    train.main(one)
    assert ranks(lambda: train.main([*one, "--out_dir=two"])) == [0, 0]  # type: ignore[arg-type,return-value]

    first, second = (load_checkpoint(coregpt.find_latest_checkpoint(name))["model"] for name in ("one", "two"))
    assert max((first[name] - weight).abs().max().item() for name, weight in second.items()) < 1e-4


def test_recomputed_activations_give_the_same_bits(studio: Path) -> None:
    for name in ("none", "full"):
        train.main(argv("mllama", "--max_iters=2", f"--activation_checkpointing={name}", f"--out_dir={name}"))

    first, second = (load_checkpoint(coregpt.find_latest_checkpoint(name))["model"] for name in ("none", "full"))
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())


def test_a_text_that_spells_the_image_mark_gives_ordinary_ids(studio: Path) -> None:
    texts = {"user": f"a {MARK} and {END}", "assistant": f"the {MARK}"}
    write_rows(f"[{{'images': [picture(n)], 'texts': [{texts!r}]}} for n in range(8)]")
    seen = Batches()
    train.main(argv("llava", "--max_iters=1"), [seen])

    tokenizer = AutoProcessor.from_pretrained("llava").tokenizer
    mark, end = tokenizer.convert_tokens_to_ids([MARK, END])
    for batch in seen.seen:
        for row, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            assert (row == mark).sum() == 4 and (row == end).sum() == 2
            assert f"a {MARK} and {END}{END}[assistant]\nthe {MARK}{END}" in tokenizer.decode(row)
            assert tokenizer.decode(labels[labels != -100]) == f"the {MARK}{END}"


def test_an_image_that_the_limit_would_cut_is_dropped_and_counted(
    studio: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "coregpt")
    seen = Batches()
    train.main(argv("llava", "--max_iters=3", "--block_size=36"), [seen])
    line = next(text for text in caplog.messages if text.startswith("data: train: "))
    dropped = re.search(r"(\d+) dropped longer than block_size, which must not cut an image", line)
    assert dropped and 0 < int(dropped[1]) < 10
    mark = AutoProcessor.from_pretrained("llava").image_token_id
    assert all(batch["input_ids"].size(1) <= 36 for batch in seen.seen)
    assert all((row == mark).sum() == 4 for batch in seen.seen for row in batch["input_ids"])

    with pytest.raises(coregpt.DataError, match=r"no train row can be used \(10 longer than block_size, which must"):
        train.main(argv("llava", "--block_size=8", "--out_dir=other"))


def test_mistakes_in_rows_are_one_message_each(studio: Path, made: Path) -> None:
    texts = [{"user": "the", "assistant": "king"}]
    for body, model, message in (
        ([2], "mllama", "mine.py: train row 0 has 2 images, wanted one for this model: change the row"),
        ([1, 1, 0], "mllama", "mine.py: train row 2 has 0 images, wanted one for this model: change the row"),
        ([0], "llava", "mine.py: train row 0 has 0 images, wanted at least one for this model"),
        ([1], str(made / "gpt2"), "rows with images and texts are for image-text models, whose folder has a processor"),
    ):
        write_rows(f"[{{'images': [picture(k) for k in range(n)], 'texts': {texts}}} for n in {body}]")
        with pytest.raises((coregpt.ConfigError, coregpt.DataError), match=re.escape(message)):
            train.main(argv(model))
    write_rows("[{'images': [picture(n)], 'texts': [{'user': 'a', 'assistant': ''}]} for n in range(4)]")
    with pytest.raises(coregpt.DataError, match="no train row can be used .4 without an answer of the assistant"):
        train.main(argv("mllama"))
    write_rows("[{'images': ['gone.png'], 'texts': [{'user': 'a', 'assistant': 'b'}]} for n in range(4)]")
    with pytest.raises(coregpt.DataError, match="no train row can be used .4 whose image cannot be read"):
        train.main(argv("mllama"))
    assert not Path("out").exists()


def test_a_collator_of_the_users_gets_the_processor(studio: Path) -> None:
    Path("mine.py").write_text(
        Path("mine.py").read_text()
        + """
def get_data_collator(processor):
    def collate(rows):
        texts = [f"<|image|>{row['texts'][0]['user']}" for row in rows]
        batch = processor(text=texts, images=[row["images"] for row in rows], padding=True, return_tensors="pt")
        seen = (batch["input_ids"] == processor.image_token_id) | (batch["attention_mask"] == 0)
        return {**batch, "labels": batch["input_ids"].masked_fill(seen | MASKED, -100)}
    return collate
"""
    )
    text = Path("mine.py").read_text()
    Path("mine.py").write_text(text.replace("MASKED", "False"))
    train.main(argv("mllama", "--max_iters=1"))
    Path("mine.py").write_text(text.replace("MASKED", "True"))
    with pytest.raises(coregpt.DataError, match="all labels of a batch are -100, so that nothing is learnt"):
        train.main(argv("mllama", "--max_iters=1", "--out_dir=other"))


def test_text_alone_trains_too(studio: Path) -> None:
    """Rows without images go through the tokenizer, as for other models."""
    Path("rows.jsonl").write_text(
        "".join(json.dumps({"prompt": "the king", "response": f" speaks {number}"}) + "\n" for number in range(12))
    )
    options = [option for option in ARGV if "dataset_file" not in option]
    train.main(["--init_from=hf:mllama", *options, "--dataset=rows.jsonl", "--max_iters=1", "--eval_interval=1"])
    assert load_checkpoint(coregpt.find_latest_checkpoint("out"))["iter_num"] == 2


def test_rows_of_a_data_set_may_have_paths_of_images(studio: Path) -> None:
    for number in range(6):
        picture(number).save(f"{number}.png")
    turns = [{"user": "the king", "assistant": "speaks"}]
    lines = [json.dumps({"images": [f"{number}.png"], "texts": turns}) for number in range(6)]
    Path("rows.jsonl").write_text("\n".join(lines))
    seen = Batches()
    options = [option for option in ARGV if "dataset_file" not in option]
    train.main(["--init_from=hf:mllama", *options, "--dataset=rows.jsonl", "--max_iters=1"], [seen])

    assert all("pixel_values" in batch for batch in seen.seen)


@MODELS
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft
def test_other_programs_load_what_a_run_writes(studio: Path, name: str) -> None:
    """The final model, the export, and an adapter next to its base, which is merged."""
    seen = Batches()
    run = coregpt.train(argv(name, "--max_iters=3"), callbacks=[seen])
    inputs = {key: value for key, value in seen.seen[0].items() if key not in ("labels", "loss_share")}
    train.main(argv(name, "--max_iters=3", "--use_lora=True", "--out_dir=small"))

    def logits(model: Any) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = model.eval()(**inputs).logits
        return found

    wanted = logits(run.model.transformer)  # type: ignore[union-attr]
    for folder in (Path("out/final_model"), export(Path("out"))):
        assert torch.equal(logits(AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)), wanted)
        assert AutoProcessor.from_pretrained(folder).chat_template == TEMPLATE
    merged = AutoModelForImageTextToText.from_pretrained(merge_lora(Path("small")), dtype=torch.float32)
    base = AutoModelForImageTextToText.from_pretrained(name, dtype=torch.float32)
    found = logits(PeftModel.from_pretrained(base, "small/final_model"))
    torch.testing.assert_close(logits(merged), found, rtol=0, atol=1e-5)
    assert (found - wanted).abs().max() > 1e-3


@MODELS
def test_a_trained_model_answers_about_a_picture(studio: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    texts = "[{'user': 'who', 'assistant': ['king', 'queen'][n % 2]}]"
    write_rows(f"[{{'images': [picture(n % 2)], 'texts': {texts}}} for n in range(4)]")
    train.main(argv(name, "--max_iters=25", "--eval_interval=100"))
    (studio / name).rename(studio / "elsewhere")
    common = ["--out_dir=out", "--device=cpu", "--num_samples=1", "--temperature=0.0", "--start=who"]
    for number, answer in enumerate(("king", "queen")):
        picture(number).save("asked.png")
        capsys.readouterr()
        sample.main([*common, "--image=asked.png"])
        assert capsys.readouterr().out.endswith(f"who\n{answer}\n---------------\n")
    sample.main([*common, "--max_new_tokens=4"])
    assert "\nwho" in capsys.readouterr().out  # continued without a picture
