"""The options of a run with images: the chat template, options without effect, and what does not fit together."""

import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoProcessor

import coregpt
import train
from tests.hf.test_rows import Batches
from tests.hf.tiny_images import ARGV, TEMPLATE
from wiring.hugging_face.image_rows import have_images, render_with_images, with_places


def argv(*more: str) -> list[str]:
    return ["--init_from=hf:mllama", *ARGV, "--max_iters=0", *more]


def test_images_come_before_the_text_of_a_message(pictured: Path) -> None:
    render = render_with_images(AutoProcessor.from_pretrained(pictured / "mllama"))
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "who", "images": 2},
        {"role": "assistant", "content": "me"},
    ]

    assert render(messages[:1], True) == "<|begin|>[user]\n<|image|><|image|>who<|end|>[assistant]\n"
    assert render(messages, False).endswith("who<|end|>[assistant]\nme<|end|>")


def test_a_template_of_the_users_is_kept_with_the_run(studio: Path) -> None:
    """A resume and an answer use it, without the file."""
    Path("mine.jinja").write_text(
        TEMPLATE.replace("[{{ m.role }}]", "{{ m.role }}:").replace("[assistant]", "assistant:")
    )
    train.main(argv("--chat_template=mine.jinja"))
    Path("mine.jinja").unlink()
    seen = Batches()
    train.main([*argv("--max_iters=2"), "--init_from=resume"], [seen])

    assert "user:\n" in coregpt.load("out", device="cpu").tokenizer.decode(seen.seen[-1]["input_ids"][0].tolist())
    assert AutoProcessor.from_pretrained("out/final_model").chat_template.startswith("{{ bos_token }}{% for m in mess")


def test_a_template_that_ends_no_answer_is_a_warning(studio: Path, caplog: pytest.LogCaptureFixture) -> None:
    Path("mine.jinja").write_text(TEMPLATE.replace("<|end|>", "\n"))
    train.main(argv("--chat_template=mine.jinja"))

    assert any(text.startswith("data: the chat template ends answers with no token") for text in caplog.messages)


@pytest.mark.parametrize(
    ("template", "options", "message"),
    [
        (
            TEMPLATE.replace("<|image|>", ""),
            [],
            "the chat template writes nothing for an image: set chat_template=FILE",
        ),
        ("{{ raise_exception('no') }}", [], "the chat template cannot be run (no): set chat_template=FILE to another"),
        (None, ["--packing=True"], "packing: without effect on rows with images: remove it"),
        (
            None,
            ["--max_input_length=4", "--text_column=texts"],
            "text_column, max_input_length: without effect on rows",
        ),
        (None, ["--chat_template=gone.jinja"], "chat_template=gone.jinja cannot be read ("),
    ],
)
def test_what_does_not_fit_is_one_message(studio: Path, template: str | None, options: list[str], message: str) -> None:
    if template is not None:
        Path("mine.jinja").write_text(template)
        options = ["--chat_template=mine.jinja"]
    with pytest.raises(coregpt.ConfigError, match=re.escape(message)):
        train.main(argv(*options))
    assert not Path("out").exists()


def test_a_processor_without_a_template_is_refused(studio: Path) -> None:
    Path("mllama/chat_template.jinja").unlink()

    with pytest.raises(coregpt.ConfigError, match="^rows with images need a chat template, and the model's processor"):
        train.main(argv())


def test_rows_with_images_are_told_by_their_columns() -> None:
    from data.rows.opening import RowSplits

    rows = RowSplits([{"images": [], "texts": []}], None, ["images", "texts", "more"], "")
    assert have_images(rows) and not have_images(rows._replace(columns=["images"]))
    placed = with_places(rows, "mine.py")
    assert placed.validation is None and placed.training[0]["place of the row"] == "mine.py: train row 0"
    assert (
        with_places(rows._replace(validation=rows.training), "x").validation[0]["place of the row"].startswith("x: val")
    )


def test_rows_of_bad_quality_are_dropped(studio: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = Path("mine.py").read_text()
    Path("mine.py").write_text(text.replace('"texts": texts', '"texts": texts, "quality_score": number / 10'))
    caplog.set_level("INFO", "coregpt")
    train.main(argv("--min_quality_score=0.5"))

    assert any(text.startswith("data: train: 5 of 10 rows") for text in caplog.messages)
