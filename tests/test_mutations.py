"""The list of mutations matches the code, and the script distinguishes noticed mutations from survivors."""

from collections import Counter

import pytest

from tests.mutations import MUTATIONS, ROOT, Mutation, survives


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_every_mutation_matches_the_code(mutation: Mutation) -> None:
    assert mutation.old in (ROOT / mutation.path).read_text()
    assert mutation.old != mutation.new


def test_titles_of_mutations_are_unique() -> None:
    assert Counter(mutation.name for mutation in MUTATIONS).most_common(1)[0][1] == 1


def test_a_mutation_that_matters_is_noticed() -> None:
    of_scheduler = next(mutation for mutation in MUTATIONS if mutation.path == "core/scheduler.py")

    assert not survives(of_scheduler)


def test_a_mutation_that_changes_nothing_survives() -> None:
    harmless = Mutation("harmless", "core/scheduler.py", "self.peak", "(self.peak)", "tests/core/test_scheduler.py")

    assert survives(harmless)
