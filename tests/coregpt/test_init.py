"""What `import coregpt` loads, and when."""

import subprocess
import sys

import coregpt


def test_the_package_does_not_wait_for_torch() -> None:
    loaded = "print('torch' in sys.modules)"
    code = f"import sys, coregpt, coregpt.command_line; {loaded}; coregpt.Callback; {loaded}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "False\nTrue\n"


def test_a_name_that_it_lacks_is_an_attribute_error() -> None:
    assert not hasattr(coregpt, "Trainers") and not hasattr(coregpt, "__nothing__")
    assert coregpt.presets.presets()
