"""data/<set>/prepare_streaming.py: each fills a queue that a consumer reads, from a training config as it is."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from config.stream_options import StreamOptions
from core.errors import CheckpointError, ConfigError
from data.char_diffusion import prepare_streaming as char_diffusion
from data.char_diffusion_sticky_rounds import prepare_streaming as sticky_rounds
from data.dual_mode import prepare_streaming as dual_mode
from data.meta import read_meta
from data.sequence_scorer import prepare_streaming as sequence_scorer
from data.shakespeare_char import prepare_streaming as shakespeare_char
from data.stages import UniformStage
from data.streaming.char_text import CharText
from data.streaming.consumer import DatasetConsumer
from data.streaming.producer import Producer
from data.vocabulary import Vocabulary
from loss_modifiers import sequence_scorer_target_transform
from model import GPT, GPTConfig
from tests.data.streaming.conftest import LINES, content

ROOT = Path(__file__).resolve().parents[3]
SMALL = ["--batch_size=2", "--block_size=24", "--batches_per_file=3", "--max_backlog_files=2", "--once"]


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """Return a folder of data sets, of which char_diffusion has a text."""
    for name in ("char_diffusion", "char_diffusion_sticky_rounds", "sequence_scorer", "dual_mode", "shakespeare_char"):
        (tmp_path / name).mkdir()
    for name in ("char_diffusion", "shakespeare_char"):
        (tmp_path / name / "input.txt").write_text("".join(LINES) * 60)
    return tmp_path


def mlm_checkpoint(folder: Path, **changes: Any) -> str:
    """Save a tiny unmasking model for the text of `sets`, and return its path."""
    characters = len(set("".join(LINES)))
    config = GPTConfig(n_layer=1, n_head=2, n_embd=16, block_size=24, vocab_size=characters + 3, bias=False,
                       attention_type="bidirectional")  # fmt: skip
    config = dataclasses.replace(config, **changes)
    torch.save({"model": GPT(config).state_dict(), "model_args": dataclasses.asdict(config)}, folder / "ckpt.pt")
    return str(folder / "ckpt.pt")


@pytest.mark.parametrize(
    ("main", "name", "training_type"),
    [
        (shakespeare_char.main, "shakespeare_char", "LM"),
        (char_diffusion.main, "char_diffusion", "MLM"),
        (sticky_rounds.main, "char_diffusion_sticky_rounds", "MLM"),
        (sequence_scorer.main, "sequence_scorer", "SEQUENCE_SCORING"),
        (dual_mode.main, "dual_mode", "DUAL_MODE"),
    ],
)
def test_each_script_fills_a_queue_that_can_be_consumed(
    sets: Path, main: Callable[..., None], name: str, training_type: str
) -> None:
    argv = [*SMALL, f"--mlm_checkpoint_path={mlm_checkpoint(sets)}"]
    main(argv, sets / name)

    source = DatasetConsumer(sets / name, 2, 24, wait_timeout_seconds=0)
    assert source.meta["training_type"] == training_type
    modes = set()
    for split in ("train", "val"):
        for _ in range(6):
            batch = source.get_batch(split)
            assert isinstance(batch, tuple) == (training_type == "LM")
            tensors = dict(zip(("input", "target"), batch, strict=True)) if isinstance(batch, tuple) else batch
            assert tensors["input"].shape == (2, 24) and int(tensors["input"].max()) < source.vocab_size
            scores = tensors.get("model_mode") == "sequence_scorer"
            assert tensors["target"].shape == ((2,) if scores else (2, 24))
            modes.add(tensors.get("model_mode"))
    assert modes == {
        "LM": {None}, "MLM": {"language_model"}, "SEQUENCE_SCORING": {"sequence_scorer"},
        "DUAL_MODE": {"language_model", "sequence_scorer"},
    }[training_type]  # fmt: skip


@pytest.mark.parametrize("name", ["sequence_scorer", "dual_mode"])
def test_what_the_model_writes_follows_from_the_seed(sets: Path, name: str) -> None:
    main = {"sequence_scorer": sequence_scorer.main, "dual_mode": dual_mode.main}[name]
    argv = [*SMALL, f"--mlm_checkpoint_path={mlm_checkpoint(sets)}"]
    found = []
    for folder in ("a", "b"):
        (sets / folder).mkdir()
        main(argv, sets / folder)
        torch.rand(3)  # the global generator is elsewhere
        found.append(content(sets / folder))

    assert found[0] == found[1]


def test_the_filler_writes_characters_at_masked_positions_only(sets: Path) -> None:
    text = CharText.prepared(sets / "char_diffusion")
    options = StreamOptions(mlm_checkpoint_path=mlm_checkpoint(sets), block_size=24)
    fill = sequence_scorer.make_fill(options, text)
    tokens, mask = torch.zeros(3, 23, dtype=torch.int64), torch.rand(3, 23) < 0.5
    hidden = tokens.masked_fill(mask, text.mask_id)

    first, again = (fill(hidden, mask, torch.Generator().manual_seed(4)) for _ in range(2))

    assert torch.equal(first, again)
    assert not torch.equal(first, fill(hidden, mask, torch.Generator().manual_seed(5)))  # it is drawn
    assert (first[~mask] == 0).all() and int(first.max()) < text.base_size
    assert len(first[mask].unique()) > 3
    assert torch.equal(fill(tokens, torch.zeros_like(mask), torch.Generator()), tokens)


CHARS = len(set("".join(LINES)))
STAGED = [
    "--use_all_stages_for_training=True",
    "--unmasking_stages=[{'type': 'span', 'spans_count': 2, 'val_loss_stale_count': 1}]",
    "--validation_stages=[{'type': 'random', 'max_masked_ratio': 0.5, 'val_loss_stale_count': 1}]",
]
SPLITS = ("train", "val")


def stages_of(provider: Any) -> list[str]:
    return [stage.describe().split(",")[0] for split in SPLITS for stage in provider.stages[split]]


@pytest.mark.parametrize(("script", "flags", "look", "wanted"), [
    # all of them
    *[(script, flags, look, wanted) for script in (
        shakespeare_char, char_diffusion, sticky_rounds, sequence_scorer, dual_mode) for flags, look, wanted in (
        (["--batches_per_file=5"], lambda made: made.batches_per_file, 5),
        (["--max_backlog_files=4"], lambda made: made.max_backlog_files, 4),
        (["--sleep_seconds=0.5"], lambda made: made.sleep_seconds, 0.5),
        (["--seed=8"], lambda made: made.seed, 8),
        ([], lambda made: made.say is print, True),
        (["--data_stream_verbose=False"], lambda made: made.say is print, False),
        (["--files=3"], lambda made: made.asked, (3, False)),
        (["--once"], lambda made: made.asked, (None, True)),
        (["--batch_size=3"], lambda made: made.provider.meta["batch_size"], 3),
        (["--block_size=20"], lambda made: made.provider.meta["block_size"], 20),
    )],
    # those with windows of lines
    *[(script, [flag], look, wanted) for script in (char_diffusion, sticky_rounds, sequence_scorer)
      for flag, look, wanted in (
        ("--enable_line_aligned_sequences=True", lambda made: made.provider.windows["val"].sizes is None, False),
        ("--enable_line_aligned_sequences=False", lambda made: made.provider.windows["val"].sizes is None, True),
        (f"--cls_token_id={CHARS + 7}", lambda made: made.provider.meta["cls_token_id"], CHARS + 7),
    )],
    *[(script, ["--ignore_index=-5"], lambda made: made.provider.ignore_index, -5)
      for script in (char_diffusion, sticky_rounds)],
    *[(script, STAGED, lambda made: stages_of(made.provider), ["span", "random"])
      for script in (char_diffusion, sequence_scorer)],
    # each one's own
    (shakespeare_char, ["--target_size=9"], lambda made: made.provider.target_size, 9),
    (char_diffusion, ["--mask_probability=0.4"], lambda made: made.provider.stages,
     {split: [UniformStage(0.4)] for split in SPLITS}),
    (char_diffusion, ["--mask_probability=0.4"], lambda made: made.provider.meta["mask_probability"], 0.4),
    (sticky_rounds, ["--sticky_p1_probability=0.3"], lambda made: made.provider.p1_probability, 0.3),
    (sticky_rounds, ["--sticky_p2_probability=0.7"], lambda made: made.provider.p2_probability, 0.7),
    (sticky_rounds, ["--max_rounds=2"], lambda made: made.provider.max_rounds, 2),
    (sequence_scorer, ["--mask_probability_range=(0.2, 0.3)"], lambda made: made.provider.mask_probability_range,
     (0.2, 0.3)),
    (sequence_scorer, ["--score_transform=True"], lambda made: made.provider.target, sequence_scorer_target_transform),
    (sequence_scorer, ["--score_transform=False"], lambda made: made.provider.target, None),
    (dual_mode, ["--mode_distribution={'language_model': 0.25, 'sequence_scorer': 0.75}"],
     lambda made: made.provider.weights.tolist(), [0.25, 0.75]),
    (dual_mode, ["--alternation_frequency=3"], lambda made: made.provider.alternation_frequency, 3),
    (dual_mode, ["--mask_probability=0.4"],
     lambda made: made.provider.providers["language_model"].meta["mask_probability"], 0.4),
    (dual_mode, ["--score_transform=True"],
     lambda made: made.provider.providers["sequence_scorer"].target, sequence_scorer_target_transform),
], ids=lambda value: value.__name__.split(".")[1] if hasattr(value, "__file__") else None)  # fmt: skip
def test_every_option_gets_where_it_belongs(
    sets: Path, script: Any, flags: list[str], look: Callable[[Any], Any], wanted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []

    class Asked(Producer):
        """Records its arguments, and makes no files."""

        def run(self, files: int | None = None, once: bool = False) -> int:
            self.asked = (files, once)
            found.append(self)
            return 0

    monkeypatch.setattr(script, "Producer", Asked)
    name = script.__name__.split(".")[1]
    script.main(["--block_size=24", f"--mlm_checkpoint_path={mlm_checkpoint(sets)}", *flags], sets / name)

    (made,) = found
    assert look(made) == wanted
    assert made.folder == sets / name


def test_a_model_that_does_not_fit_is_refused(sets: Path) -> None:
    with pytest.raises(ConfigError, match="mlm_checkpoint_path is not set"):
        sequence_scorer.main(SMALL, sets / "sequence_scorer")
    for changes, reason in (
        ({"vocab_size": 5}, "another vocabulary"),
        ({"block_size": 8}, "has block_size=8, wanted at least"),
    ):
        path = mlm_checkpoint(sets, **changes)
        with pytest.raises(CheckpointError, match=reason):
            sequence_scorer.main([*SMALL, f"--mlm_checkpoint_path={path}"], sets / "sequence_scorer")
    (sets / "ckpt.pt").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="cannot read"):
        sequence_scorer.main([*SMALL, f"--mlm_checkpoint_path={sets / 'ckpt.pt'}"], sets / "sequence_scorer")


def test_a_filler_is_shown_its_own_ids(sets: Path) -> None:
    """[PAD] and [CLS] change places where the option says so; a model that learnt before that knows its own."""
    text = CharText.prepared(sets / "char_diffusion", cls_token_id=CHARS + 1)
    assert (text.pad_id, text.cls_id) == (CHARS + 2, CHARS + 1)
    beyond = Vocabulary.beyond(CHARS)

    assert sequence_scorer._model_ids(CHARS + 3, {}, text) == (CHARS, CHARS + 1)
    assert sequence_scorer._model_ids(beyond.size, {}, text) == (CHARS, CHARS + 6)
    meta = {"mask_token_id": CHARS, "pad_token_id": CHARS + 2}
    assert sequence_scorer._model_ids(CHARS + 3, {"meta": meta}, text) == (CHARS, CHARS + 2)
    assert sequence_scorer._model_ids(CHARS + 1, {"meta": {"mask_token_id": CHARS}}, text) == (CHARS, CHARS + 1)


def test_a_data_set_of_ones_own_is_filled_by_any_script(sets: Path) -> None:
    (sets / "mine").mkdir()
    (sets / "mine" / "input.txt").write_text("one line\nand another\n" * 100)
    char_diffusion.main([*SMALL, "--dataset=mine"], sets / "char_diffusion")

    assert read_meta(sets / "mine" / "meta.pkl")["training_type"] == "MLM"
    assert not (sets / "char_diffusion" / "queue").exists()


def test_a_config_for_another_script_is_refused(sets: Path) -> None:
    (sets / "dual_mode" / "prepare_streaming.py").touch()
    with pytest.raises(ConfigError, match=r"run `python .*dual_mode/prepare_streaming\.py`"):
        char_diffusion.main([*SMALL, "--dataset=dual_mode"], sets / "char_diffusion")


def test_the_program_takes_a_training_config_as_it_is(sets: Path) -> None:
    config = sets / "config.py"
    config.write_text(
        "batch_size = 2\nblock_size = 24\nbatches_per_file = 2\nmax_backlog_files = 1\nlearning_rate = 1e-3\n"
        "model_mode = 'language_model'\nattention_type = 'bidirectional'\nuse_all_stages_for_training = True\n"
        "unmasking_stages = [{'type': 'random', 'max_masked_ratio': 0.5, 'val_loss_stale_count': 2}]\n"
        f"validation_stages = unmasking_stages\nentropy_modifier_enabled = True\ndataset = {str(sets / 'mine')!r}\n"
    )
    (sets / "mine").mkdir()
    (sets / "mine" / "input.txt").write_text("".join(LINES) * 60)
    script = ROOT / "data" / "char_diffusion" / "prepare_streaming.py"
    done = subprocess.run([sys.executable, script, config, "--once"], cwd=sets, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert "made " in done.stdout and len(content(sets / "mine")) == 2


def test_a_misspelt_option_is_refused(sets: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'batch_size'"):
        char_diffusion.main([*SMALL, "--bach_size=3"], sets / "char_diffusion")
