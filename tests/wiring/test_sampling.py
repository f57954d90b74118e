"""The parts of sample.py, made from options: the model and its kind, the vocabulary, prompts and scored lines."""

import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import core
from config.options import SampleOptions
from data.meta import read_meta
from data.tokenizers import ByteTokenizer, CharTokenizer
from model import GPT, GPTConfig
from wiring import sampling
from wiring.sampling import TrainedModel

CPU = torch.device("cpu")
SHAPE: dict[str, Any] = dict(
    n_layer=1, n_head=1, n_embd=8, block_size=16, vocab_size=32, attention_type="bidirectional"
)


def save_checkpoint(model_args: dict[str, Any], config: dict[str, Any]) -> None:
    """Save a checkpoint of a new model in out/."""
    args = {**SHAPE, **model_args}
    Path("out").mkdir(exist_ok=True)
    content = {"model": GPT(GPTConfig(**args)).state_dict(), "model_args": args, "config": config}
    torch.save(content, "out/ckpt.pt")


def options(**settings: Any) -> SampleOptions:
    return SampleOptions(device="cpu", **settings)


def load(**settings: Any) -> TrainedModel:
    return sampling.load_trained_model(options(**settings), core.ModelInitializer(GPT, GPTConfig, CPU))


def trained(model_args: dict[str, Any] | None = None, **config: Any) -> TrainedModel:
    """Return the parts of a model without weights."""
    model_config = SimpleNamespace(**{**SHAPE, **(model_args or {})})
    return TrainedModel(SimpleNamespace(config=model_config), CharTokenizer.from_text("abcd"), config, "unmasking")


@pytest.mark.parametrize(
    ("model_args", "training_type", "kind"),
    [
        ({}, None, "language_model"),
        ({}, "unmasking", "unmasking"),
        ({"mode": "token_classifier"}, "token_classification", "token_classifier"),
        ({"mode": "sequence_scorer", "cls_token_id": 22}, "sequence_scoring", "sequence_scorer"),
    ],
)
def test_the_kind_of_a_model_follows_from_the_checkpoint(
    run_dir: Path, model_args: dict[str, Any], training_type: str | None, kind: str
) -> None:
    save_checkpoint({"dropout": 0.3, **model_args}, {"dataset": "tiny", "training_type": training_type})

    trained_model = load()

    assert trained_model.kind == kind and not trained_model.model.training
    assert trained_model.config["dataset"] == "tiny" and trained_model.tokenizer.vocab_size == 17
    assert (trained_model.encoder().vocab_size, trained_model.encoder().block_size) == (32, 16)


def test_ckpt_pt_is_sampled_even_if_a_newer_checkpoint_was_saved(run_dir: Path) -> None:
    save_checkpoint({}, {"dataset": "tiny"})
    checkpoints = core.CheckpointManager("out")
    checkpoints.load()
    newer, notes = torch.load("out/ckpt.pt") | {"config": {}}, {"iter_num": 5, "val_loss": None, "healthy": True}
    checkpoints.save(lambda path: torch.save(newer, path), notes, link=False)

    assert load().config == {"dataset": "tiny"}


@pytest.mark.parametrize("section", sampling.KINDS)
def test_every_option_of_a_kind_is_refused_by_others(run_dir: Path, section: str) -> None:
    save_checkpoint({}, {"dataset": "tiny"})
    values = {"masking_ratios": [0.5, 0.0], "mask_char": "_", "judge": "x", "judge_candidates": 3, "original": "x",
              "steps": 7, "schedule": "cosine", "order": "confidence", "top_p": 0.5}  # fmt: skip

    for name in SampleOptions.sections()[section]:
        settings = {name: values.get(name, True), **({"judge": "x"} if name == "judge_candidates" else {})}
        with pytest.raises(core.ConfigError, match=rf"{name}: for checkpoints of the kind {sampling.KINDS[section]}"):
            load(**settings)


def test_the_tokenizer_follows_from_the_data_set(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "Gpt2Tokenizer", ByteTokenizer)  # GPT-2's may have to be downloaded
    configs = {"dataset": "tiny"}, {"dataset": "gone"}, None

    sizes = [
        sampling.find_tokenizer({"config": config}, size).vocab_size
        for config, size in zip(configs, (17, 50257, 50304), strict=True)
    ]

    assert sizes == [17, 256, 256]
    missing = "No meta.pkl found, assuming GPT-2 encodings...\n"
    assert capsys.readouterr().out == "Loading meta from data/tiny/meta.pkl...\n" + 2 * missing


def test_the_tokenizer_of_a_data_set_given_by_its_path(tiny_bins: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sampling.find_tokenizer({"config": {"dataset": str(tiny_bins)}}, 17).vocab_size == 17
    assert capsys.readouterr().out == f"Loading meta from {tiny_bins}/meta.pkl...\n"


LEARNT = CharTokenizer.from_text("abcd").meta()


@pytest.mark.parametrize(("dataset", "path"), [("gone", "data/gone/meta.pkl"), (None, None)])
def test_the_tokens_in_a_checkpoint_need_no_data_set(
    run_dir: Path,
    dataset: str | None,
    path: str | None,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    tokenizer = sampling.find_tokenizer({"config": {"dataset": dataset}, "tokenizer": LEARNT}, 4)

    assert tokenizer.decode([0, 3]) == "ad" and capsys.readouterr().out == ""
    said = [f"{path} is not there: the tokens are those in the checkpoint"]
    assert caplog.messages == (said if path else [])


def test_tokens_in_a_checkpoint_go_before_those_of_a_changed_data_set(
    run_dir: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = sampling.find_tokenizer({"config": {"dataset": "tiny"}, "tokenizer": LEARNT}, 4)

    assert tokenizer.decode([0, 3]) == "ad" and capsys.readouterr().out == ""
    differs = "(4 tokens there, 17 here, id 0 is 'a' there and '\\n' here,"
    assert caplog.messages[0].startswith(f"data/tiny/meta.pkl has other tokens than the model {differs}")


def test_equal_tokens_in_checkpoint_and_data_set_print_nanogpts_line(
    run_dir: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    meta = read_meta("data/tiny/meta.pkl")
    assert sampling.find_tokenizer({"config": {"dataset": "tiny"}, "tokenizer": meta}, 17).vocab_size == 17
    assert capsys.readouterr().out == "Loading meta from data/tiny/meta.pkl...\n" and caplog.messages == []


def test_a_damaged_meta_pkl_does_not_matter_to_a_checkpoint_with_tokens(run_dir: Path) -> None:
    Path("data/tiny/meta.pkl").write_bytes(b"nonsense")
    assert sampling.find_tokenizer({"config": {"dataset": "tiny"}, "tokenizer": LEARNT}, 4).decode([1]) == "b"


def test_a_small_vocabulary_is_not_taken_for_gpt2s(run_dir: Path) -> None:
    with pytest.raises(core.DataError, match=r"10 tokens, not GPT-2's, .*data/gone/meta\.pkl is not there \(the curr"):
        sampling.find_tokenizer({"config": {"dataset": "gone"}}, 10)
    with pytest.raises(core.DataError, match=r"10 tokens, not GPT-2's, .*which: it names no data set$"):
        sampling.find_tokenizer({}, 10)


def test_a_meta_pkl_of_another_size_than_the_model_is_warned_of(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sampling.find_tokenizer({"config": {"dataset": "tiny"}}, 10)
    assert caplog.messages == ["data/tiny/meta.pkl: 17 tokens, but the model has 10: the text may be wrong"]


def test_the_vocabulary_follows_checkpoint_then_meta_then_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    from_meta = sampling.find_vocabulary(trained(meta={"text_vocab_size": 20, "mask_token_id": 25}))
    from_options = sampling.find_vocabulary(trained(mask_token_id=9, cls_token_id=11))
    default = sampling.find_vocabulary(trained(dataset="gone"))

    assert (from_meta.text, from_meta.mask, from_meta.size) == (20, 25, 32)
    assert (from_options.text, from_options.mask, from_options.cls) == (4, 9, 11)
    assert (default.text, default.mask) == (4, 4)


def test_text_of_an_option_may_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("Käse\n", encoding="utf-8")

    assert sampling.read_text("FILE", "start") == "FILE"
    assert sampling.read_text(f"FILE:{path}", "start") == "Käse\n"
    with pytest.raises(core.ConfigError, match=r"^--original=FILE:.*none: the prompt cannot be read \("):
        sampling.read_text(f"FILE:{tmp_path}/none", "original")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(core.ConfigError, match=r"pipe: the prompt cannot be read \(.*it is a named pipe\)$"):
        sampling.read_text(f"FILE:{tmp_path}/pipe", "start")


@pytest.mark.parametrize(("wanted", "note"), [(13, ""), (14, "block_size=16 has room for 13 new tokens, not 14\n")])
def test_a_prompt_is_filled_up_with_masks(capsys: pytest.CaptureFixture[str], wanted: int, note: str) -> None:
    ids = sampling.masked_prompt("abc", trained(), 4, options(max_new_tokens=wanted), CPU)

    assert ids.tolist() == [0, 1, 2, *[4] * 13]
    assert capsys.readouterr() == ("", note)


def test_the_sampler_gets_every_option() -> None:
    vocabulary = sampling.find_vocabulary(trained(mask_token_id=6))
    settings = {"temperature": 0.3, "top_k": 5, "top_p": 0.6, "order": "confidence", "remask": True}

    sampler = sampling.make_sampler(None, vocabulary, options(steps=4, seed=8, **settings), CPU)

    assert {name: getattr(sampler, name) for name in settings} == settings
    assert (sampler.text_vocab_size, sampler.mask_token_id) == (4, 6)
    assert sampler.shares == [0.75, 0.5, 0.25, 0.0] and sampler.generator.initial_seed() == 8
    ratios = sampling.make_sampler(None, vocabulary, options(masking_ratios=[0.9, 0.4]), CPU)
    assert ratios.shares == [0.9, 0.0]


def test_the_original_text_is_encoded() -> None:
    assert sampling.original_ids(trained(), options()) is None
    assert sampling.original_ids(trained(), options(original="dab")) == [3, 0, 1]
    with pytest.raises(core.DataError, match=r"^--original: .*'x'"):
        sampling.original_ids(trained(), options(original="x"))


def test_texts_to_score_are_the_prompt_or_the_lines_of_a_file() -> None:
    assert sampling.texts_to_score("a\nb", "a\nb") == [("--start", "a\nb")]
    assert sampling.texts_to_score("a\n\nb\n", "FILE:x") == [
        ("--start=FILE:x line 1", "a"),
        ("--start=FILE:x line 3", "b"),
    ]
    assert sampling.texts_to_score("\n", "FILE:x") == [("--start", "")]
