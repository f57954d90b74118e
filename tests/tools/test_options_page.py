"""docs/options.md shows the options that config/options.py declares."""

from config.options import Options, SampleOptions
from tools.options_page import PATH, page


def test_the_page_in_docs_is_current() -> None:
    assert PATH.read_text() == page(), "run `make docs`"


def test_every_option_is_on_the_page() -> None:
    text = page()

    for name in [*Options.model_fields, *SampleOptions.model_fields]:
        assert f"| `{name}` |" in text


def test_every_option_name_of_other_trainers_is_on_the_page() -> None:
    text = page()

    for name, (option, _) in Options.ALIASES.items():
        assert f"| `{name}` | `{option}` |" in text
