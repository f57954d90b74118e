"""Declared options: defaults, sections, conversion, checks, help and tables."""

import re
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from pydantic import ValidationError, model_validator

from config.schema import Schema, default_text, literal, section, wanted
from configurator import configure


class Kitchen(Schema):
    """Options of every supported type."""

    opt = section("oven")
    heat: float = opt(180.0, "degrees", gt=0, le=300)
    minutes: int = opt(40, "time in the oven", ge=1)
    grill: bool = opt(False, "from above")
    opt = section("dish")
    name: str = opt("cake", "what is baked")
    kind: Literal["sweet", "salty"] = opt("sweet", "taste")
    guests: int | None = opt(None, "how many eat", ge=1)
    baked_at: str = opt(lambda: "noon", "computed on demand")
    del opt

    ALIASES: ClassVar[Any] = {"temperature": ("heat", float)}

    @model_validator(mode="after")
    def _not_too_hot(self) -> "Kitchen":
        if self.heat * self.minutes > 20_000:
            raise ValueError(f"heat={self.heat} for minutes={self.minutes} burns it: lower one of them")
        return self


def test_defaults_and_sections_keep_the_order_of_declaration() -> None:
    assert Kitchen.defaults() == dict(
        heat=180.0, minutes=40, grill=False, name="cake", kind="sweet", guests=None, baked_at="noon"
    )
    assert Kitchen.sections() == {"oven": ["heat", "minutes", "grill"], "dish": ["name", "kind", "guests", "baked_at"]}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("heat", 200, 200.0),
        ("heat", "1e2", 100.0),
        ("heat", np.float32(0.5), 0.5),
        ("minutes", 60.0, 60),
        ("minutes", "6e1", 60),
        ("minutes", np.int64(7), 7),
        ("minutes", torch.tensor(7), 7),
        ("grill", True, True),
        ("grill", 1, True),
        ("grill", "false", False),
        ("grill", np.bool_(True), True),
        ("name", "007", "007"),
        ("name", 7, "7"),
        ("name", 0.5, "0.5"),
        ("name", "None", "None"),
        ("name", "", ""),
        ("kind", "salty", "salty"),
        ("guests", None, None),
        ("guests", "None", None),
        ("guests", "null", None),
        ("guests", "3", 3),
    ],
)
def test_a_value_is_converted_to_its_options_type(name: str, value: Any, expected: Any) -> None:
    fitted = Kitchen.fit(name, value)

    assert fitted == expected and type(fitted) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("heat", 0, "float > 0 and <= 300"),
        ("heat", 301.0, "float > 0 and <= 300"),
        ("heat", float("nan"), "float > 0 and <= 300"),
        ("heat", True, "float > 0 and <= 300"),
        ("heat", "hot", "float > 0 and <= 300"),
        ("heat", [1], "float > 0 and <= 300"),
        ("minutes", 1.5, "int >= 1"),
        ("minutes", True, "int >= 1"),
        ("minutes", None, "int >= 1"),
        ("grill", 2, "bool"),
        ("grill", "yes", "bool"),
        ("name", True, "str"),
        ("name", None, "str"),
        ("kind", "sour", "'sweet' or 'salty'"),
        ("guests", 0, "int or None >= 1"),
    ],
)
def test_a_value_that_cannot_be_converted_is_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        Kitchen.fit(name, value)

    assert str(caught.value) == message == wanted(Kitchen.model_fields[name])


class Cake(Schema):
    opt = section("cake")
    layers: list[dict[str, Any]] | None = opt(None, "from below")
    sign: str | None = opt(None, "on top of it", min_length=1, max_length=1)
    del opt


@pytest.mark.parametrize("value", ["[{'of': None}]", '[{"of": null}]', [{"of": None}], ({"of": None},)])
def test_a_list_of_dicts_is_parsed_from_text(value: Any) -> None:
    assert Cake.fit("layers", value) == [{"of": None}]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("layers", "{'of': 'dough'}", "list of dicts or None"),
        ("layers", ["dough"], "list of dicts or None"),
        ("layers", "[{'of': ", "list of dicts or None (not a complete Python or JSON literal; put quotes"),
        ("sign", "**", "one character or None"),
        ("sign", "", "one character or None"),
    ],
)
def test_lists_and_characters_of_the_wrong_form_are_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        Cake.fit(name, value)

    assert str(caught.value).startswith(message)
    assert Cake.fit("sign", "*") == "*"


def test_a_number_beyond_every_float_is_refused() -> None:
    assert Kitchen.fit("minutes", 10**308) == 10**308
    for name in ("heat", "minutes"):
        with pytest.raises(ValueError, match=r", at most 1e\+308$"):
            Kitchen.fit(name, 10**309)
    with pytest.raises(ValueError, match=r", at most 3e\+38$"):  # torch has no larger ones
        Kitchen.fit("heat", -1e39)


@pytest.mark.parametrize("value", [np.arange(2), torch.ones(2)])
def test_an_array_is_not_a_number(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^int >= 1$"):
        Kitchen.fit("minutes", value)


def test_rules_between_options_keep_their_messages() -> None:
    values = Kitchen.defaults() | {"heat": 300.0, "minutes": 100}

    with pytest.raises(ValueError) as caught:
        Kitchen.validated(values)

    assert str(caught.value) == "heat=300.0 for minutes=100 burns it: lower one of them"
    assert Kitchen.validated(values | {"minutes": 10, "helper": 3}).minutes == 10


def test_options_are_immutable_and_reject_unknown_names() -> None:
    with pytest.raises(ValidationError):
        Kitchen().heat = 3.0  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Kitchen(salt=1)  # type: ignore[call-arg]


def test_pick_returns_values_and_changed_those_that_are_not_defaults() -> None:
    kitchen = Kitchen(heat=200.0)

    assert kitchen.pick("heat", "name") == {"heat": 200.0, "name": "cake"}
    assert kitchen.changed("heat", "name", "baked_at") == {"heat": 200.0}


def test_help_lists_options_with_type_and_description() -> None:
    assert Kitchen.help(["dish"]) == (
        "dish:\n"
        "  --name=cake  [str]\n      what is baked\n"
        "  --kind=sweet  ['sweet' or 'salty']\n      taste\n"
        "  --guests=None  [int or None >= 1]\n      how many eat\n"
        "  --baked_at=auto  [str]\n      computed on demand"
    )
    assert Kitchen.help().startswith("oven:\n  --heat=180.0  [float > 0 and <= 300]\n      degrees\n")
    assert default_text(Kitchen.model_fields["baked_at"]) == "auto"


def test_a_table_runs_as_a_config_file() -> None:
    kitchen = Kitchen(name="it's", guests=3)
    names: dict[str, Any] = {}

    exec(kitchen.table({"guests": "x.py:3"}), names)

    assert {name: names[name] for name in Kitchen.model_fields} == kitchen.model_dump()
    assert "guests = 3  # x.py:3" in kitchen.table({"guests": "x.py:3"})


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("'3'", "3"), ("[1, 2]", [1, 2]), ("true", True), ("null", None), ("None", None), ("1_0", 10),
     ("os.getcwd()", "os.getcwd()"), ("", ""), ("(" * 300, "(" * 300), ("two words", "two words")],
)  # fmt: skip
def test_literals_are_evaluated_and_other_text_is_kept(text: str, value: Any) -> None:
    assert literal(text) == value and type(literal(text)) is type(value)


class Odd(Schema):
    """Types that a fork's config class may have."""

    opt = section("model")
    windows: list[int] = opt([4], "a list")
    pair: tuple[int, ...] = opt((1, 2), "a tuple")
    names: list[str] = opt([], "texts")
    bare: list[Any] | None = opt(None, "any list")
    act: Literal["gelu", "relu"] | None = opt(None, "one of two, or none")
    level: Literal[1, 2] = opt(1, "one of two numbers")
    sizes: dict[str, int] = opt({}, "a dict")
    anything: Any = opt(None, "anything")
    del opt


@pytest.mark.parametrize(
    ("name", "given", "value", "kind"),
    [
        ("windows", "[1, 2]", [1, 2], "list of ints"),
        ("windows", (3,), [3], "list of ints"),
        ("pair", "[3, 4]", (3, 4), "tuple"),
        ("pair", [3], (3,), "tuple"),
        ("names", "['a']", ["a"], "list of strs"),
        ("bare", "None", None, "list or None"),
        ("act", "relu", "relu", "'gelu' or 'relu' or None"),
        ("act", "None", None, "'gelu' or 'relu' or None"),
        ("level", "2", 2, "1 or 2"),
        ("sizes", "{'a': 1}", {"a": 1}, "dict"),
        ("anything", "rms", "rms", "any value"),
        ("anything", "[1]", [1], "any value"),
    ],
)
def test_types_of_a_forks_config_class_are_read_and_named(name: str, given: Any, value: Any, kind: str) -> None:
    assert Odd.fit(name, given) == value and type(Odd.fit(name, given)) is type(value)
    assert wanted(Odd.model_fields[name]) == kind


@pytest.mark.parametrize(
    ("name", "given"), [("act", "swish"), ("level", "3"), ("windows", "4"), ("pair", "x"), ("sizes", "[]")]
)
def test_other_values_of_such_types_are_refused(name: str, given: str) -> None:
    with pytest.raises(ValueError, match=re.escape(wanted(Odd.model_fields[name]))):
        Odd.fit(name, given)


def test_a_value_that_was_not_fitted_is_named_with_its_option() -> None:
    with pytest.raises(ValueError, match="^minutes: got 'x', wanted "):
        Kitchen.validated({**Kitchen.defaults(), "minutes": "x"})


# saving


def test_saved_options_load_back_with_what_the_user_set(tmp_path: Path) -> None:
    path, values = tmp_path / "kitchen.yaml", {"heat": 1e-5, "guests": None, "name": "no: # cake"}
    options = Kitchen.validated({**Kitchen.defaults(), **values}, values)

    options.save(path, "# a cake")

    lines, loaded = path.read_text().splitlines(), configure(Kitchen, [str(path)])
    assert loaded == options and loaded.model_fields_set == set(values)
    assert lines[:4] == ["# a cake", "heat: 1.0e-05", "name: 'no: # cake'", "guests: null"]
    assert lines[5:7] == ["defaults:", "  minutes: 40"]
    assert [path.name for path in tmp_path.iterdir()] == ["kitchen.yaml"]


def test_values_of_a_forks_types_load_back(tmp_path: Path) -> None:
    values = {"pair": (3, 4), "sizes": {"a": 1}, "anything": {"b": [1.5, None, True]}, "act": "relu", "names": ["yes"]}
    options = Odd.validated({**Odd.defaults(), **values}, values)

    options.save(tmp_path / "fork.yaml")

    assert configure(Odd, [str(tmp_path / "fork.yaml")]) == options


@pytest.mark.parametrize("value", [(1, (2, 3)), float("nan"), "12", object()])
def test_a_value_that_yaml_cannot_hold_is_named_in_a_comment(tmp_path: Path, value: Any) -> None:
    path, values = tmp_path / "fork.yaml", {"anything": value, "level": 2}
    Odd.validated({**Odd.defaults(), **values}, values).save(path)

    assert path.read_text().startswith(f"level: 2\n# anything: YAML has no such value: {value!r}\n")
    loaded = configure(Odd, [str(path)])
    assert (loaded.level, loaded.anything) == (2, None)
