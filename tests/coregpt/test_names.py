"""What users import."""

import core
import coregpt
from coregpt import names


def test_the_names_are_cores_and_those_of_training() -> None:
    assert coregpt.__all__ == names.__all__ and set(core.__all__) < set(names.__all__)
    assert all(hasattr(coregpt, name) for name in names.__all__)
    assert coregpt.Callback is core.Callback and coregpt.GPT.__name__ == "GPT"
