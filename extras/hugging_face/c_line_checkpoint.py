"""Checkpoints of the C line: folders that transformers or peft loads, with a state of training next to the weights."""

import logging
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.checkpoint.numpy_numbers import ALLOWED
from core.errors import CheckpointError
from core.files import reason
from extras.hugging_face.lora import inner, is_adapter

log = logging.getLogger("coregpt")
STATE = "training_state.pt"
FOLDER = re.compile(r"checkpoint-(\d+)")
State = dict[str, Any]


class _Array:
    """Stands for `numpy.ndarray` while a file is read; the numbers in it, of random states, are dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


def _array(*_: Any) -> _Array:
    """Stand for the function that makes an array while a file is read."""
    return _Array()


# what a pickle of a NumPy array calls, before and since NumPy 2
ARRAYS: list[Any] = [
    (_Array, "numpy.ndarray"),
    (_array, "numpy.core.multiarray._reconstruct"),
    (_array, "numpy._core.multiarray._reconstruct"),
]


def is_c_line(folder: Path) -> bool:
    """Return whether a folder is a complete checkpoint of the C line, which writes training_state.pt last."""
    return (folder / STATE).is_file() and is_model(folder)


def is_model(folder: Path) -> bool:
    """Return whether a folder has the config of a model of transformers, or of an adapter."""
    return (folder / "config.json").is_file() or is_adapter(folder)


def newest(out_dir: Path) -> Path | None:
    """Return the complete checkpoint of the C line with the highest step in a folder, None if there is none.

    Also None if a run of ours, or of nanoGPT, has saved there: its checkpoints come first.
    """
    if not out_dir.is_dir() or any(out_dir.glob("ckpt*")):
        return None
    steps = {int(named[1]): path for path in out_dir.iterdir() if (named := FOLDER.fullmatch(path.name))}
    folders = [steps[step] for step in sorted(steps, reverse=True) if is_model(steps[step])]
    found = next((folder for folder in folders if is_c_line(folder)), None)
    if found is not None and found != folders[0]:
        log.warning(f"{folders[0]} has no {STATE}: its save was cut short; {found} is used instead")
    return found


def read_state(folder: Path) -> State:
    """Return the counters and AdamW's state in a checkpoint of the C line, under the keys of our checkpoints.

    AdamW's state is that of one group of all parameters: see `fit_moments`. The best loss there is one of training.
    Code hidden in the file is refused, not run. Raises CheckpointError if the file is damaged.
    """
    path = folder / STATE
    advice = f"take an earlier one with ckpt_filename, or the weights alone with init_from=hf:{folder}"
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                if record := file.testzip():
                    raise ValueError(f"the checksum of {record} is wrong")
        with torch.serialization.safe_globals([*ALLOWED, *ARRAYS]):
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail in nearly any way
        cause = reason(error).split(". ")[0]
        raise CheckpointError(f"{path} is damaged, or holds more than a training state ({cause}): {advice}") from None
    step = saved.get("global_step") if isinstance(saved, dict) else None
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise CheckpointError(f"{path} has global_step={step!r}, wanted a number of updates: {advice}")
    return {"model": {}, "model_args": {}, "iter_num": step, "optimizer": saved.get("optimizer_state_dict") or None}


def fit_moments(saved: State | None, model: nn.Module, folder: Path) -> State | None:
    """Return AdamW's state of a checkpoint of the C line for our optimizer; None if it is not one of this model.

    There one group has all parameters, in their order; here tensors of two or more dimensions are a group of their own.
    Betas, eps and weight decay stay as saved, in both groups, so that the next update is the one that the C line makes.
    """
    if not saved:
        return None
    parameters = list(inner(model).parameters())
    try:
        keys = [key for group in saved["param_groups"] for key in group["params"]]
        moments = dict(zip(parameters, (saved["state"].get(key) for key in keys), strict=True))
        for parameter, state in moments.items():
            if state and state["exp_avg"].shape != parameter.shape:
                raise ValueError(f"a tensor of shape {tuple(state['exp_avg'].shape)}, not {tuple(parameter.shape)}")
        settings = {name: saved["param_groups"][0][name] for name in ("lr", "betas", "eps", "weight_decay")}
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        log.warning(f"resume: AdamW's moments in {folder / STATE} do not fit ({reason(error)}): they start at zero")
        return None
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    decayed, others = ([one for one in trained if (one.dim() >= 2) == decays] for decays in (True, False))
    numbers = {parameter: number for number, parameter in enumerate([*decayed, *others])}
    log.info(
        f"resume: {folder} is of the C line: AdamW's moments, betas, eps and weight decay "
        f"({settings['weight_decay']:g}, of all tensors) are taken"
    )
    return {
        "state": {number: moments[parameter] for parameter, number in numbers.items() if moments[parameter]},
        "param_groups": [{**settings, "params": [numbers[one] for one in part]} for part in (decayed, others) if part],
    }
