"""docs/options.md says what config/options.py declares."""

from config.options import Options, SampleOptions
from tools.options_page import PATH, page


def test_the_page_in_docs_is_current() -> None:
    assert PATH.read_text() == page(), "run `make docs`"


def test_every_option_is_on_the_page() -> None:
    text = page()

    for name in [*Options.model_fields, *SampleOptions.model_fields]:
        assert f"| `{name}` |" in text


def test_every_foreign_spelling_is_on_the_page() -> None:
    text = page()

    for spelling, (option, _) in Options.ALIASES.items():
        assert f"| `{spelling}` | `{option}` |" in text
