"""
One rank of a launch, which kills itself at a planned place; the campaign `restarts` launches it.

    torchrun ... -m benchmark.soak.killed_rank PLAN OPTIONS     # PLAN: a JSON list, one Kill per start of the ranks

Each start of a rank writes its process id to pid-START-RANK; rank 0 appends the iteration where training begins, and
that of the newest checkpoint, to starts.jsonl.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

STARTS = "starts.jsonl"
START, ANY_TIME = "start", "any time"  # places at which the campaign kills a rank from outside


class Kill(NamedTuple):
    """Where a rank is killed.

    place: `joining` the process group, `step`, `evaluation`, `saving`: the rank kills itself on its visit number `at`;
           `start`, `any time`: the campaign kills it `seconds` after it has written its process id
    """

    place: str
    rank: int
    at: int = 0
    seconds: float = 0.0


def pid_file(start: int, rank: int) -> Path:
    """Return the file with the process id of a rank. start: 0, and 1 more after each restart"""
    return Path(f"pid-{start}-{rank}")


def kill_file(start: int) -> Path:
    """Return the file that exists once a rank of this start is killed."""
    return Path(f"killed-{start}")


def main(argv: Sequence[str]) -> None:
    """Train with the options in argv[1:], and kill this process as the plan in argv[0] says."""
    start, rank = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), int(os.environ["RANK"])
    file = pid_file(start, rank)
    file.with_suffix(".part").write_text(str(os.getpid()))
    file.with_suffix(".part").rename(file)

    # imported here: a kill at the start may come before PyTorch is loaded
    import torch.distributed as dist

    import train
    from benchmark.soak.campaign import saved_iteration
    from benchmark.soak.save_watch import SaveWatch
    from core.callback import Callback
    from core.errors import exit_on_error
    from core.machine.process_group import ProcessGroup
    from core.trainer import Trainer

    kills = [Kill(*kill) for kill in json.loads(argv[0])]
    kill = kills[start] if start < len(kills) and kills[start].rank == rank else None
    saved = saved_iteration(Path())

    class KillAtVisit(Callback):
        """Kills this process on a visit of the planned place."""

        def __init__(self) -> None:
            self.visits = 0

        def visit(self, place: str) -> None:
            """Count a visit if the plan is about this place."""
            self.visits += kill is not None and kill.place == place
            if kill is not None and kill.place == place and self.visits == kill.at:
                kill_file(start).touch()
                os.kill(os.getpid(), signal.SIGKILL)

        def on_train_begin(self, trainer: Trainer) -> None:
            if rank == 0:
                with open(STARTS, "a") as file:
                    file.write(json.dumps({"iter_num": trainer.iter_num, "saved": saved}) + "\n")
            model = trainer.raw_model
            model.register_forward_pre_hook(lambda *_: self.visit("step" if model.training else "evaluation"))

        def on_step_begin(self, trainer: Trainer) -> None:
            self.visit("step")

        def on_step_end(self, trainer: Trainer, result: Any) -> None:
            self.visit("step")

        def on_eval_begin(self, trainer: Trainer) -> None:
            self.visit("evaluation")

        def on_eval_end(self, trainer: Trainer, losses: Any) -> None:
            self.visit("evaluation")

        def watched(self, work: Callable[..., Any]) -> Callable[..., Any]:
            """Return `work` as a function that visits `joining` before and after."""

            def watched_work(*args: Any, **kwargs: Any) -> Any:
                self.visit("joining")
                result = work(*args, **kwargs)
                self.visit("joining")
                return result

            return watched_work

    callback = KillAtVisit()
    ProcessGroup._wait = callback.watched(ProcessGroup._wait)  # type: ignore[method-assign]
    dist.init_process_group = callback.watched(dist.init_process_group)
    SaveWatch(lambda number, where, path: callback.visit("saving")).install()
    with exit_on_error(outlives_stdout=True):
        train.main(list(argv[1:]), [callback])


if __name__ == "__main__":
    main(sys.argv[1:])
