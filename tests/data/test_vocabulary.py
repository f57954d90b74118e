"""The ids beyond the text's."""

import itertools

import pytest

from core.errors import ConfigError
from data.vocabulary import Vocabulary


def test_the_ids_are_where_the_train_run_line_has_them() -> None:
    assert Vocabulary.beyond(65) == Vocabulary(text=65, mask=65, cls=70, pad=71, size=80)


def test_ids_may_be_chosen_and_the_vocabulary_grows_with_them() -> None:
    assert Vocabulary.beyond(10, mask=12, cls_token=11) == Vocabulary(text=10, mask=12, cls=11, pad=16, size=25)
    assert Vocabulary.beyond(10, mask=40).size == 41
    assert Vocabulary.beyond(10, cls_token=30).size == 31


def test_no_two_ids_are_the_same() -> None:
    for mask, cls_token in itertools.product([None, *range(10, 20)], [None, *range(10, 20)]):
        if (10 if mask is None else mask) == (15 if cls_token is None else cls_token):
            continue
        found = Vocabulary.beyond(10, mask=mask, cls_token=cls_token)
        assert len({found.mask, found.cls, found.pad}) == 3
        assert found.text <= min(found[1:4]) and max(found[1:4]) < found.size


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ({"cls_token": 9}, "^cls_token_id=9 is inside the text's vocabulary of 10 tokens: wanted 10 or more, or None"),
        ({"mask": 0}, "^mask_token_id=0 is inside the text's vocabulary of 10 tokens: wanted 10 or more, or None"),
        ({"cls_token": 10}, "^mask_token_id and cls_token_id are both 10: choose"),
        ({"mask": 12, "cls_token": 12}, "^mask_token_id and cls_token_id are both 12: choose"),
    ],
)
def test_ids_that_cannot_be_are_refused(ids: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Vocabulary.beyond(10, **ids)


def test_a_queue_tells_its_own_ids() -> None:
    meta = {"mask_token_id": 65, "cls_token_id": 66}

    found = Vocabulary.of(meta, 70)

    assert (found.text, found.mask, found.cls, found.size) == (65, 65, 66, 70)
    assert found.pad == 70  # none: no model has this id


def test_what_is_noted_of_a_vocabulary_makes_the_same_again() -> None:
    for found in (Vocabulary.beyond(10), Vocabulary.beyond(10, mask=40), Vocabulary.of({"mask_token_id": 65}, 66)):
        assert Vocabulary.of(found.meta(), found.size) == found
    assert Vocabulary.of({"mask_token_id": 65}, 66).meta() == {
        "vocab_size": 66, "text_vocab_size": 65, "mask_token_id": 65,
    }  # fmt: skip
