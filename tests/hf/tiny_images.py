"""Tiny image-text models of transformers with their processors, and pictures, made here: no hub is needed."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.hf.conftest import text

BEGIN, PAD, END, MARK = "<|begin|>", "<|pad|>", "<|end|>", "<|image|>"
SIDE = 28  # of a picture as the models see it
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ '\n' }}{% for part in m.content %}"
    "{% if part.type == 'image' %}<|image|>{% else %}{{ part.text }}{% endif %}{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{{ '\n' }}{% endif %}"
)
ARGV = ["--device=cpu", "--compile=False", "--dtype=float32", "--block_size=64", "--batch_size=2", "--eval_iters=2"]
ARGV += ["--gradient_accumulation_steps=2", "--warmup_iters=0", "--learning_rate=1e-2", "--lr_schedule=constant"]
ARGV += ["--eval_interval=4", "--log_interval=3", "--dataset_file=mine.py"]
ROWS = """
from tests.hf.tiny_images import picture

WORDS = "the king queen speaks to me and you of war love night".split()

def get_custom_dataset(dataset_config, processor, split, split_ratio=0.8):
    rows = []
    for number in range(14):
        words = WORDS[number % 5 : number % 5 + 3]
        texts = [{"user": " ".join(words), "assistant": " ".join(words[: number % 3 + 1])}]
        if number % 4 == 0:
            texts.append({"user": "and", "assistant": "you"})
        rows.append({"images": [picture(number, 40 + number % 3 * 20)], "texts": texts})
    return rows[:10] if split == "train" else rows[10:]
"""


def make_tokenizer() -> Any:
    """Return a byte-level BPE whose last id is the image's, as in Llama 3.2; its start token is id 0."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    settings = {"vocab_size": 300, "special_tokens": [BEGIN, PAD, END]}
    settings["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator([text()], trainers.BpeTrainer(show_progress=False, **settings))
    made.add_special_tokens([MARK])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token=BEGIN, eos_token=END, pad_token=PAD)


def make_mllama() -> tuple[Any, Any]:
    """Return a Mllama with one layer of self-attention and one of cross-attention, and its processor."""
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

    tokenizer = make_tokenizer()
    words = len(tokenizer) - 1  # the head does not write the image's mark
    seen = {
        "image_size": SIDE,
        "patch_size": 14,
        "max_num_tiles": 2,
        "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
    }
    seen |= {"hidden_size": 16, "vision_output_dim": 32, "intermediate_size": 32, "attention_heads": 2}
    seen |= {"num_hidden_layers": 1, "num_global_layers": 1, "intermediate_layers_indices": [0]}
    read = {**small_text(words), "cross_attention_layers": [1]}
    config = transformers.MllamaConfig(vision_config=seen, text_config=read, image_token_index=words)
    model = large(transformers.MllamaForConditionalGeneration(config))
    pictures = MllamaImageProcessorPil(size={"height": SIDE, "width": SIDE}, max_image_tiles=2)
    return model, transformers.MllamaProcessor(pictures, tokenizer, chat_template=TEMPLATE)


def make_llava() -> tuple[Any, Any]:
    """Return a Llava, whose pictures are 4 tokens each among those of the text, and its processor."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = make_tokenizer()
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    seen = transformers.CLIPVisionConfig(**sizes, image_size=SIDE, patch_size=14, projection_dim=16)
    read = transformers.LlamaConfig(**small_text(len(tokenizer)))
    config = transformers.LlavaConfig(vision_config=seen, text_config=read, image_token_id=len(tokenizer) - 1)
    model = large(transformers.LlavaForConditionalGeneration(config))
    pictures = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    settings = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    made = transformers.LlavaProcessor(pictures, tokenizer, image_token=MARK, chat_template=TEMPLATE, **settings)
    return model, made


def small_text(words: int) -> dict[str, Any]:
    """Return the settings of a tiny Llama."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": words}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    ends = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False}
    return {**sizes, **heads, **ends, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}


def large(model: Any) -> Any:
    """Return the model with large random weights and open gates, so that pictures matter."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
            if "gate" in name and parameter.numel() == 1:
                parameter.fill_(1.0)
    return model.eval()


def save(maker: Any, folder: Path) -> Path:
    """Write a model and its processor into a folder."""
    torch.manual_seed(2)
    model, processor = maker()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def picture(number: int, width: int = 40, height: int = 30) -> Any:
    """Return a picture of random points."""
    points = np.random.default_rng(number).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(points)
