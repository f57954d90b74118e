"""dataset_file: rows and a collator of the user's own, trained on, resumed exactly, and their mistakes."""

import re
from pathlib import Path

import pytest

import coregpt
import train
from core.checkpoint.find import find_latest_checkpoint
from core.checkpoint.format import load_checkpoint
from tests.hf.test_rows import ARGV, Batches
from tools.run_hash import run_hash

ROWS = """
import torch
from helper import TEXTS

def get_custom_dataset(dataset_config, processor, split, split_ratio=0.8):
    assert dataset_config.batch_size == 3 and dataset_config.file.endswith("mine.py")
    cut = int(len(TEXTS) * split_ratio)
    return TEXTS[:cut] if split == "train" else TEXTS[cut:]
"""
COLLATOR = """
def get_data_collator(processor):
    def collate(texts):
        rows = [processor(text).input_ids + [processor.eos_token_id] for text in texts]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        labels = torch.tensor([row + [-100] * (width - len(row)) for row in rows])
        return {"input_ids": ids, "labels": labels, "attention_mask": (labels != -100).long()}
    return collate
"""
HELPER = """
TEXTS = [" ".join(["the", "king", "speaks", "to", "me"][: number % 5 + 1]) for number in range(20)]
"""


@pytest.fixture
def mine(place: Path) -> Path:
    Path("mine").mkdir()
    Path("mine/helper.py").write_text(HELPER)
    Path("mine/mine.py").write_text(ROWS + COLLATOR)
    return Path("mine/mine.py")


def argv(file: Path | str, *more: str) -> list[str]:
    return ["--init_from=hf:gpt2", *ARGV, f"--dataset_file={file}", *more]


def test_a_users_rows_train_and_resume_exactly(mine: Path) -> None:
    train.main(argv(mine, "--max_iters=9", "--out_dir=whole"))
    train.main(argv(mine, "--max_iters=3", "--out_dir=parts"))
    for last in (6, 9):
        train.main(argv(mine, f"--max_iters={last}", "--out_dir=parts", "--init_from=resume"))

    assert run_hash(Path("parts")) == run_hash(Path("whole"))


def test_the_batches_are_the_collators_and_all_labels_count_alike(mine: Path) -> None:
    seen = Batches()
    train.main(argv(mine, "--max_iters=3", "--use_subset=True", "--subset_size=6"), [seen])

    for number in range(0, 8, 2):
        update = seen.seen[number : number + 2]
        labels = [int((batch["labels"][:, 1:] != -100).sum()) for batch in update]
        assert [batch["loss_share"].item() for batch in update] == pytest.approx([2 / sum(labels)] * 2)
    assert len({tuple(map(tuple, batch["input_ids"].tolist())) for batch in seen.seen}) > 2


def test_rows_with_ids_or_columns_need_no_collator(mine: Path) -> None:
    for body in ('[{"text": text} for text in TEXTS]', '[{"input_ids": processor(text).input_ids} for text in TEXTS]'):
        Path("mine/mine.py").write_text(
            f"from helper import TEXTS\ndef get_custom_dataset(dataset_config, processor, split):\n    return {body}\n"
        )
        train.main(argv(mine, "--max_iters=1", "--eval_interval=1"))
        assert load_checkpoint(find_latest_checkpoint("out"))["iter_num"] == 2


def test_the_file_is_found_next_to_the_config_and_in_its_folder(mine: Path) -> None:
    Path("mine/config.yaml").write_text("dataset_file: mine.py\n")
    Path("datasets").mkdir()
    Path("datasets/helper.py").write_text(HELPER)
    Path("datasets/other.py").write_text(ROWS.replace("mine.py", "other.py") + COLLATOR)
    train.main(["--init_from=hf:gpt2", *ARGV, "mine/config.yaml", "--max_iters=0", "--out_dir=first"])
    train.main(argv("other.py", "--max_iters=0", "--out_dir=second"))

    assert coregpt.load("first", device="cpu").options.dataset_file == "mine/mine.py"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "mine/mine.py: it defines no get_custom_dataset: wanted a Python file with get_custom_dataset("),
        ("\n1 / 0", "mine/mine.py:2: running it fails with ZeroDivisionError"),
        (
            "def get_custom_dataset(dataset_config, processor, split, split_ratio):\n    return dataset_config.nothing",
            "mine/mine.py:2: running it fails with AttributeError",
        ),
        ("def get_custom_dataset(c, p, split): return iter([])", "returns a list_iterator for train, wanted rows with"),
        ("def get_custom_dataset(c, p, split): return []", "get_custom_dataset returns no row for train"),
        (
            ROWS + "def get_data_collator(processor):\n    return lambda rows: {}[0]",
            "get_data_collator's function fails with KeyError",
        ),
        (
            ROWS + "def get_data_collator(processor):\n    return lambda rows: {'input_ids': torch.ones(1, 3).long(), "
            "'labels': torch.full((1, 3), -100)}",
            "all labels of a batch are -100",
        ),
    ],
)
def test_a_mistake_in_the_file_is_one_message(mine: Path, text: str, message: str) -> None:
    mine.write_text(text)

    with pytest.raises((coregpt.ConfigError, coregpt.DataError), match=re.escape(message)):
        train.main(argv(mine, "--max_iters=1"))


def test_options_that_the_file_replaces_are_refused(mine: Path) -> None:
    with pytest.raises(coregpt.ConfigError, match="^streaming: without effect next to dataset_file: remove it"):
        train.main(argv(mine, "--streaming=True"))
    with pytest.raises(coregpt.ConfigError, match="^dataset_file=gone.py: there is no such file, wanted a Python file"):
        train.main(argv("gone.py"))
