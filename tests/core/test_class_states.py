"""Parts by class name."""

from core.class_states import stateful


class Plain:
    pass


class Patience:
    def state_dict(self) -> dict[str, int]:
        return {}


class Other(Patience):
    pass


def test_parts_are_named_by_class_and_numbered_from_the_second_on() -> None:
    parts = [Plain(), Patience(), Other(), Patience(), Patience()]

    found = stateful(parts)

    assert list(found) == ["Patience", "Other", "Patience-2", "Patience-3"]
    assert list(found.values()) == parts[1:]
