"""What `import core` loads, and when."""

import subprocess
import sys

import core
from core import names


def test_options_and_errors_do_not_wait_for_torch() -> None:
    code = "import sys, core.errors, config.options, configurator; print({'torch', 'numpy'} & sys.modules.keys())"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_name_that_core_lacks_is_an_attribute_error() -> None:
    assert not hasattr(core, "Trainers") and not hasattr(core, "__nothing__")


def test_the_names_are_those_of_names() -> None:
    assert core.__all__ == names.__all__ and core.Trainer is names.Trainer
