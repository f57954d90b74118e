"""data/streaming/consumer.py: every batch once, over any number of ranks and restarts; nothing goes too early."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import ConfigError, DataError
from data.meta import write_meta
from data.streaming.batch_file import StoredBatch
from data.streaming.char_text import CharText
from data.streaming.consumer import DatasetConsumer
from data.streaming.masked import MaskedProvider
from data.streaming.queue import Queue, QueueFile
from tests.data.streaming.conftest import Noise, content, producer

FILES, PER_FILE = 7, 3


def fill(folder: Path, files: int = FILES, **options: Any) -> list[Any]:
    """Fill a queue, and return the inputs of the training batches in order."""
    producer(folder, max_backlog_files=files, **options).run(once=True)
    return content(folder)


def consumer(folder: Path, **options: Any) -> DatasetConsumer:
    return DatasetConsumer(folder, 2, **{"wait_sleep_seconds": 0.01, "wait_timeout_seconds": 0.05, **options})


def draw(source: DatasetConsumer, count: int, split: str = "train") -> list[Any]:
    batches = [source.get_batch(split) for _ in range(count)]
    return [batch["input"].tolist() for batch in batches if isinstance(batch, dict)]


def numbers(folder: Path) -> list[int]:
    return [file.number for file in Queue(folder / "queue" / "train").files()]


def test_batches_come_in_the_order_they_were_made(tmp_path: Path) -> None:
    made = fill(tmp_path)

    assert draw(consumer(tmp_path), len(made)) == made


@pytest.mark.parametrize("world", [1, 2, 3])
def test_over_all_ranks_every_batch_comes_once(tmp_path: Path, world: int) -> None:
    made = fill(tmp_path, files=6)
    ranks = [consumer(tmp_path, rank=rank, world_size=world) for rank in range(world)]
    shares = [[] for _ in ranks]
    for _ in range(len(made) // world):
        for rank, share in zip(ranks, shares, strict=True):
            share += draw(rank, 1)

    assert sorted(batch for share in shares for batch in share) == sorted(made)
    assert shares[0][:PER_FILE] == made[:PER_FILE]
    assert shares[-1][:PER_FILE] == made[PER_FILE * (world - 1) : PER_FILE * world]


@pytest.mark.parametrize("world", [1, 2])
def test_a_restart_at_any_batch_continues_with_the_next(tmp_path: Path, world: int) -> None:
    fill(tmp_path, files=4)
    total = 4 * PER_FILE // world
    for rank in range(world):
        whole = draw(consumer(tmp_path, rank=rank, world_size=world), total)
        for cut in range(total):
            first = consumer(tmp_path, rank=rank, world_size=world)
            begun = draw(first, cut)
            second = consumer(tmp_path, rank=rank, world_size=world)
            second.load_state_dict(first.state_dict())

            assert begun + draw(second, total - cut) == whole


def test_a_state_is_plain_and_can_be_gone_back_to(tmp_path: Path) -> None:
    made = fill(tmp_path)
    source = consumer(tmp_path)
    draw(source, 4)
    state = source.state_dict()
    draw(source, 7)
    torch.save(state, tmp_path / "state.pt")

    source.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))

    assert draw(source, 3) == made[4:7]


def test_evaluation_does_not_change_the_training_batches(tmp_path: Path) -> None:
    made = fill(tmp_path)
    source = consumer(tmp_path)
    drawn = []
    for _ in range(10):
        drawn += draw(source, 1)
        before = source.state_dict()
        for split in ("train", "val"):
            for _ in range(4):
                source.get_eval_batch(split)
        assert source.state_dict() == before

    assert drawn == made[:10]
    assert len(content(tmp_path, "val")) == FILES * PER_FILE


def test_evaluations_cycle_through_the_same_validation_batches(tmp_path: Path) -> None:
    fill(tmp_path, files=2)
    made = content(tmp_path, "val")
    source = consumer(tmp_path)
    draw(source, 1)
    assert draw(source, 8, "val") == made + made[:2]

    draw(source, 1)

    assert draw(source, 8, "val") == made + made[:2]


def test_evaluation_on_training_data_is_of_the_file_in_use(tmp_path: Path) -> None:
    made = fill(tmp_path)
    source = consumer(tmp_path)
    of_train = lambda: source.get_eval_batch("train")["input"].tolist()  # type: ignore[index,union-attr] # noqa: E731
    assert [of_train() for _ in range(4)] == made[:3] + made[:1]  # before the first training batch

    draw(source, 3)
    assert [of_train() for _ in range(4)] == made[:3] + made[:1]
    draw(source, 1)
    assert [of_train() for _ in range(4)] == made[3:6] + made[3:4]
    again = consumer(tmp_path)
    again.load_state_dict(source.state_dict())
    source = again
    assert of_train() == made[3]


def test_a_file_is_deleted_only_when_a_checkpoint_covers_it(tmp_path: Path) -> None:
    fill(tmp_path)
    source = consumer(tmp_path)
    draw(source, 5)
    state = source.state_dict()  # in the middle of file 1
    draw(source, 8)
    assert numbers(tmp_path) == list(range(FILES))

    assert source.release(source.first_needed([state])) == 1

    assert numbers(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert source.release(source.first_needed([state])) == 0


def test_the_file_of_a_batch_drawn_ahead_stays(tmp_path: Path) -> None:
    """A checkpoint holds that batch, but a resume on other ranks starts with files alone."""
    made = fill(tmp_path)
    source = consumer(tmp_path)
    draw(source, PER_FILE)
    source.release(source.first_needed([source.state_dict()]))
    assert numbers(tmp_path)[0] == 0

    source.load_state_dict(source.state_dict())
    assert draw(source, 1) == [made[PER_FILE]]


def test_a_rank_releases_its_own_files_alone(tmp_path: Path) -> None:
    fill(tmp_path)
    ranks = [consumer(tmp_path, rank=rank, world_size=2) for rank in range(2)]
    for source in ranks:
        draw(source, 7)
    states = [source.state_dict() for source in ranks]

    ranks[0].release(ranks[0].first_needed(states))
    assert numbers(tmp_path) == [1, 3, 4, 5, 6]
    ranks[1].release(ranks[1].first_needed(states))
    assert numbers(tmp_path) == [4, 5, 6]


def test_a_checkpoint_of_other_ranks_needs_all_their_unfinished_files(tmp_path: Path) -> None:
    fill(tmp_path)
    ranks = [consumer(tmp_path, rank=rank, world_size=2) for rank in range(2)]
    for source, count in zip(ranks, (8, 4), strict=True):
        draw(source, count)  # in files 4 and 3
    states = [source.state_dict() for source in ranks]

    assert consumer(tmp_path).first_needed(states) == 3
    assert consumer(tmp_path).first_needed([*states, consumer(tmp_path).state_dict()]) == 0  # nothing drawn yet


@pytest.mark.parametrize("world", [1, 3])
def test_on_another_number_of_ranks_nothing_is_lost(tmp_path: Path, world: int) -> None:
    made = fill(tmp_path)
    ranks = [consumer(tmp_path, rank=rank, world_size=2) for rank in range(2)]
    trained_on = [batch for source in ranks for batch in draw(source, 5)]  # the last of each is only drawn ahead
    for source in ranks:
        source.release(source.first_needed([source.state_dict()]))

    trained_on = [batch for batch in trained_on if batch not in (made[7], made[10])]
    for rank in range(world):
        source = consumer(tmp_path, rank=rank, world_size=world)
        source.load_state_dict(ranks[0].state_dict())
        own = [file.number for file in Queue(tmp_path / "queue" / "train").files() if file.number % world == rank]
        trained_on += draw(source, PER_FILE * len(own))

    assert {str(batch) for batch in trained_on} == {str(batch) for batch in made}


def test_the_producer_makes_files_before_the_first_checkpoint(tmp_path: Path) -> None:
    made = producer(tmp_path, max_backlog_files=1)
    source = None
    drawn = []
    for _ in range(5):
        made.run(once=True)
        source = source or consumer(tmp_path)
        drawn += draw(source, PER_FILE)

    assert drawn == content(tmp_path) and len(drawn) == 15
    assert len(Queue(tmp_path / "queue" / "train").waiting()) <= 1


def test_more_ranks_than_files_may_wait_do_not_block_each_other(tmp_path: Path) -> None:
    made = producer(tmp_path, max_backlog_files=1)
    made.run(once=True)
    ranks = [consumer(tmp_path, rank=rank, world_size=3) for rank in range(3)]
    drawn = []
    for _ in range(2 * PER_FILE):
        for source in ranks:
            drawn += draw(source, 1)
            made.run(once=True)

    assert sorted(drawn) == sorted(content(tmp_path)[: len(drawn)])


def test_it_waits_for_the_producer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = fill(tmp_path, files=1)
    source = consumer(tmp_path, wait_timeout_seconds=None, wait_sleep_seconds=0.25)
    draw(source, PER_FILE)
    naps = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            producer(tmp_path, max_backlog_files=1).run(once=True)

    monkeypatch.setattr(time, "sleep", nap)
    (batch,) = draw(source, 1)

    assert naps == [0.25] * 3
    assert batch == content(tmp_path)[PER_FILE] and batch not in made


def test_one_may_wait_for_the_first_files_before_anything_depends_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, files=1)
    consumer(tmp_path, wait_timeout_seconds=0).wait()
    for split in ("train", "val"):
        (file,) = (tmp_path / "queue" / split).glob("*.pt")
        kept = file.rename(tmp_path / file.name)
        source = consumer(tmp_path, wait_timeout_seconds=0)
        with pytest.raises(DataError, match=rf"waited 0 s .* for a file in .*{split}"):
            source.wait()
        kept.rename(file)
        source.wait()
    assert source.state_dict() == consumer(tmp_path).state_dict()
    with pytest.raises(DataError, match="a file for rank 1 of 2"):
        consumer(tmp_path, rank=1, world_size=2, wait_timeout_seconds=0).wait()


def test_a_wait_that_is_too_long_says_for_what_and_what_to_do(tmp_path: Path) -> None:
    fill(tmp_path, files=1)
    source = consumer(tmp_path, rank=1, world_size=2)
    state = source.state_dict()

    with pytest.raises(DataError, match=r"waited 0 s .*a file for rank 1 of 2 in .*train: fill it with `python "):
        draw(source, 1)
    assert source.state_dict() == state


def test_a_missing_queue_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no queue at .*fill it with `python .*prepare_streaming\.py CONFIG`"):
        consumer(tmp_path)


def test_a_queue_without_meta_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "queue").mkdir()
    with pytest.raises(DataError, match=r"meta\.pkl"):
        consumer(tmp_path)
    write_meta(tmp_path / "meta.pkl", {"vocab_size": 3})
    with pytest.raises(DataError, match="training_type"):
        consumer(tmp_path)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_broken_file_is_named_before_training_and_can_be_removed(tmp_path: Path, split: str) -> None:
    made = fill(tmp_path)
    path = Queue(tmp_path / "queue" / split).files()[1].path
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match=f"cannot read {path}.*remove the file"):
        consumer(tmp_path)
    assert numbers(tmp_path) == list(range(FILES))

    path.unlink()

    kept = made if split == "val" else made[:PER_FILE] + made[2 * PER_FILE :]
    assert draw(consumer(tmp_path), len(kept)) == kept


def test_a_list_that_was_read_while_files_came_skips_none(tmp_path: Path) -> None:
    class Hasty(Queue):
        """A folder whose list, read for the first time, lacks the file that was renamed at that moment."""

        lists = 0

        def files(self) -> list[QueueFile]:
            self.lists += 1
            return super().files()[1:] if self.lists == 1 else super().files()

    made = fill(tmp_path)
    source = consumer(tmp_path)
    source.queues["train"] = Hasty(tmp_path / "queue" / "train")

    assert draw(source, 1) == made[:1]


def test_a_file_that_disappears_during_a_run_is_named(tmp_path: Path) -> None:
    fill(tmp_path)
    source = consumer(tmp_path)
    draw(source, 4)
    again = consumer(tmp_path)
    again.load_state_dict(source.state_dict())
    Queue(tmp_path / "queue" / "train").files()[1].path.unlink()

    with pytest.raises(DataError, match=r"in the middle of file 000001, which is no longer in .*resume_rng=reseed"):
        draw(again, 1)


def test_a_run_continues_exactly_on_a_queue_made_again_from_the_seed(tmp_path: Path) -> None:
    made = fill(tmp_path / "whole")
    fill(tmp_path / "b", files=3)
    source = consumer(tmp_path / "b")
    draw(source, 7)  # in the middle of file 2
    state = source.state_dict()
    for file in Queue(tmp_path / "b" / "queue" / "train").files():
        file.path.unlink()
    (tmp_path / "b" / "queue" / "train" / ".next").unlink()
    anew = producer(tmp_path / "b", max_backlog_files=1)
    anew.run(once=True)
    source = consumer(tmp_path / "b")
    source.load_state_dict(state)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", lambda _: anew.run(once=True))
        drawn = draw(source, 5)

    assert drawn == made[7:12]


def test_batches_for_next_token_prediction_are_pairs(tmp_path: Path) -> None:
    producer(tmp_path, Noise("LM")).run(once=True)
    batch = consumer(tmp_path).get_batch("train")

    assert isinstance(batch, tuple)
    assert [tensor.shape for tensor in batch] == [(2, 4), (2, 4)]


def test_targets_to_ignore_are_those_that_the_loss_ignores(tmp_path: Path) -> None:
    class Padded(Noise):
        def batches(self, split: str, count: int, generator: torch.Generator) -> list[StoredBatch]:
            made = super().batches(split, count, generator)
            padded = [torch.cat([batch.tensors["target"][:, :3], torch.full((2, 1), -100)], 1) for batch in made]
            return [
                batch._replace(tensors={**batch.tensors, "target": y}) for batch, y in zip(made, padded, strict=True)
            ]

    producer(tmp_path, Padded("LM")).run(once=True)
    _, targets = consumer(tmp_path).get_batch("train")

    assert (targets[:, 3] == -1).all() and (targets[:, :3] >= 0).all()


class Short(Noise):
    """Targets of one token less than the inputs have."""

    def batches(self, split: str, count: int, generator: torch.Generator) -> list[StoredBatch]:
        made = super().batches(split, count, generator)
        return [batch._replace(tensors={**batch.tensors, "target": batch.tensors["target"][:, 1:]}) for batch in made]


@pytest.mark.parametrize("waits", [True, False])
def test_targets_of_another_length_are_refused_before_training(tmp_path: Path, waits: bool) -> None:
    short = Short("LM")
    if waits:
        producer(tmp_path, short).run(once=True)
    else:  # the queue is empty, only meta.pkl exists
        producer(tmp_path).run(once=True)
        write_meta(tmp_path / "meta.pkl", {**short.meta, "target_size": 3})
    with pytest.raises(DataError, match="targets of 3 tokens for inputs of 4"):
        consumer(tmp_path)


def test_too_few_validation_files_are_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, files=2)
    source = consumer(tmp_path)
    draw(source, 2 * PER_FILE, "val")
    assert not caplog.messages
    draw(source, 5 * PER_FILE, "val")

    assert [message.count("lower eval_iters") for message in caplog.messages] == [1]


def test_other_batches_name_their_tensors_and_their_mode(tmp_path: Path) -> None:
    fill(tmp_path)
    batch = consumer(tmp_path).get_batch("val")

    assert isinstance(batch, dict)
    assert set(batch) == {"input", "target", "model_mode"}
    assert batch["model_mode"] == "language_model"


def test_the_stage_of_each_row_goes_along(tmp_path: Path) -> None:
    class Staged(Noise):
        def batches(self, split: str, count: int, generator: torch.Generator) -> list[StoredBatch]:
            made = super().batches(split, count, generator)
            return [StoredBatch(batch.tensors, {**batch.metadata, "stage_index": [3, -1]}) for batch in made]

    fill(tmp_path, provider=Staged())
    batch = consumer(tmp_path).get_batch("val")

    assert isinstance(batch, dict)
    assert torch.equal(batch["stage"], torch.tensor([3, -1]))  # type: ignore[arg-type]


def test_older_files_can_be_consumed(tmp_path: Path) -> None:
    folder = tmp_path / "queue" / "train"
    folder.mkdir(parents=True)
    write_meta(tmp_path / "meta.pkl", {"vocab_size": 66, "training_type": "MLM", "cls_token_id": 66})
    rows = torch.arange(8).view(4, 2)
    metadata = {"batch_size": 2, "num_batches": 2, "stage_info": [{"type": "random"}] * 4}
    torch.save({"tensors": {"x": rows, "y": rows}, "metadata": metadata}, folder / "1700000000000-000000-2.pt")
    source = consumer(tmp_path)

    assert draw(source, 2) == [rows[:2].tolist(), rows[2:].tolist()]
    assert source.vocab_size == 67


def test_sizes_and_vocabulary_must_fit_the_model(tmp_path: Path) -> None:
    fill(tmp_path)
    with pytest.raises(DataError, match=r"rows of 4 tokens, wanted at most block_size=3"):
        consumer(tmp_path, block_size=3)
    with pytest.raises(DataError, match="wanted batch_size=5"):
        DatasetConsumer(tmp_path, 5)
    consumer(tmp_path).check_vocab(9)
    with pytest.raises(DataError, match="9 token ids, but the model only 8"):
        consumer(tmp_path).check_vocab(8)


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_id_outside_the_vocabulary_is_named_when_a_file_is_opened(tmp_path: Path, split: str) -> None:
    fill(tmp_path)
    source = consumer(tmp_path)
    source.get_batch(split)
    source.check_vocab(9)  # of meta.pkl; the numbers in the files are random

    with pytest.raises(DataError, match=rf"queue/{split}/.* holds token id \d+ at batch 0, row 0, position 0 of input"):
        for _ in range(20):
            source.get_batch(split)


@pytest.mark.parametrize("line_aligned", [False, True])
def test_a_model_without_the_ids_of_the_rows_is_refused(tmp_path: Path, text: CharText, line_aligned: bool) -> None:
    """So that one of the core line goes on, whose vocabulary ends with [MASK], or with [PAD]."""
    producer(tmp_path / "set", MaskedProvider(text, 4, 16, line_aligned=line_aligned)).run(once=True)
    source = DatasetConsumer(tmp_path / "set", 4, 16)
    needed = text.base_size + 1 + line_aligned

    largest = max(int(source.get_batch("train")["input"].max()) for _ in range(3))
    assert largest == needed - 1 < source.vocab_size - 1
    source.check_vocab(needed)
    with pytest.raises(DataError, match=f"has {needed} token ids, but the model only {needed - 1}"):
        source.check_vocab(needed - 1)


def test_a_queue_with_files_cannot_change_its_largest_id(tmp_path: Path, text: CharText) -> None:
    producer(tmp_path / "set", MaskedProvider(text, 4, 16, line_aligned=True)).run(once=True)

    with pytest.raises(ConfigError, match=f"were made with largest_token_id={text.pad_id}, now {text.mask_id}"):
        producer(tmp_path / "set", MaskedProvider(text, 4, 16, line_aligned=False)).run(once=True)


def test_the_fingerprint_tells_kinds_of_queues_apart(tmp_path: Path) -> None:
    fill(tmp_path / "a")
    fill(tmp_path / "b", provider=Noise("LM"))
    prints = [consumer(tmp_path / name).fingerprint() for name in ("a", "a", "b")]

    assert prints[0] == prints[1] != prints[2]
