"""Models, tokenizers and folders of Hugging Face."""
