"""Objects with a state, by class name."""

from core.checkpoint.class_states import stateful


class Plain:
    pass


class Patience:
    def state_dict(self) -> dict[str, int]:
        return {}


class Other(Patience):
    pass


class Adapter(Patience):
    state_name = "Patience"


def test_a_part_that_stands_for_another_has_that_name() -> None:
    assert list(stateful([Adapter(), Other(), Patience()])) == ["Patience", "Other", "Patience-2"]


def test_objects_are_named_by_class_and_numbered_from_the_second_on() -> None:
    parts = [Plain(), Patience(), Other(), Patience(), Patience()]

    named = stateful(parts)

    assert list(named) == ["Patience", "Other", "Patience-2", "Patience-3"]
    assert list(named.values()) == parts[1:]
