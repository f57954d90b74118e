"""sample.py --image: answers about a picture, and what it refuses."""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

import coregpt
import sample
from tests.hf.tiny_images import picture

COMMON = ["--init_from=hf:llava", "--device=cpu", "--image=asked.png", "--max_new_tokens=3"]


@pytest.fixture
def asked(studio: Path) -> Path:
    picture(3).save("asked.png")
    return studio


def test_an_answer_is_that_of_transformers(asked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample.main([*COMMON, "--temperature=0.0", "--num_samples=2", "--start=the king"])
    model = AutoModelForImageTextToText.from_pretrained("llava", dtype=torch.float32)
    processor = AutoProcessor.from_pretrained("llava")
    parts = [{"type": "image", "image": picture(3)}, {"type": "text", "text": "the king"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt",
    )  # fmt: skip
    written = model.generate(**inputs, max_new_tokens=3, do_sample=False)[0, inputs["input_ids"].size(1) :]

    answer = f"the king\n{processor.tokenizer.decode(written, skip_special_tokens=True)}\n---------------\n"
    assert capsys.readouterr().out.endswith(answer * 2)


def test_answers_are_drawn_at_random(asked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample.main([*COMMON, "--temperature=5.0", "--num_samples=4"])
    texts = capsys.readouterr().out.split("---------------\n")

    assert len(texts) == 5 and len(set(texts)) > 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image=gone.png"], "image=gone.png: the picture cannot be read (FileNotFoundError: "),
        (["--image=mine.py"], "image=mine.py: the picture cannot be read (UnidentifiedImageError: "),
        (["--start=" + "the king " * 200], "image=asked.png: with the prompt it has "),
        (["--start=a <|image|>"], "image=asked.png: the model's processor refuses it: "),
        (["--interactive=True"], "image=asked.png: interactive=True is a chat in words: remove one of them"),
    ],
)
def test_a_mistake_is_one_message(asked: Path, options: list[str], message: str) -> None:
    with pytest.raises(coregpt.ConfigError, match=re.escape(message)):
        sample.main([*COMMON, *options])


def test_a_model_of_text_alone_takes_no_image(place: Path) -> None:
    with pytest.raises(coregpt.ConfigError, match=r"^image=a\.png: the model is none of images and text: remove it"):
        sample.main(["--init_from=hf:gpt2", "--device=cpu", "--image=a.png"])
