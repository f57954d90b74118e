"""
The flat loop: a nanoGPT-style training loop in one function, which uses nothing of core/.

The trainer is compared with the flat loop bit by bit, and its speed is measured against it. The flat loop takes
train.py's options, and under torchrun uses gloo. To learn how a GPT is trained, read this file first.

    python benchmark/reference.py config/quickstart.py --max_iters=100
"""

import gc
import math
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from config.options import Options
from configurator import configure
from data.meta import read_meta
from model import GPT, GPTConfig

SHAPE = ("n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size")


def train(argv: list[str]) -> None:
    """Train with the options of a command line; print and save what nanoGPT prints and saves."""
    o = configure(Options, argv)

    # processes
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    parallel, master = "RANK" in os.environ, rank == 0
    if parallel:
        dist.init_process_group("gloo")
    micro_steps = o.gradient_accumulation_steps // world
    if master:
        print(f"tokens per iteration will be: {micro_steps * world * o.batch_size * o.block_size:,}")
        Path(o.out_dir).mkdir(parents=True, exist_ok=True)
    torch.manual_seed(o.seed + rank)
    autocast = torch.autocast("cpu", torch.bfloat16) if o.cpu_autocast and o.dtype == "bfloat16" else nullcontext()

    # data
    folder = Path("data") / o.dataset

    def draw(split: str) -> tuple[torch.Tensor, torch.Tensor]:
        ids = np.fromfile(folder / f"{split}.bin", dtype=np.uint16).astype(np.int64)
        rows = [ids[at : at + o.block_size + 1] for at in torch.randint(len(ids) - o.block_size, (o.batch_size,))]
        window = torch.tensor(np.array(rows))
        return window[:, :-1].clone(), window[:, 1:].clone()

    # model
    first_iter = 0
    best: torch.Tensor | float = 1e9
    shape = {name: getattr(o, name) for name in SHAPE if name != "vocab_size"} | {"dropout": o.dropout}
    saved = None
    if (folder / "meta.pkl").exists():
        shape["vocab_size"] = read_meta(folder / "meta.pkl")["vocab_size"]
        if master:
            print(f"found vocab_size = {shape['vocab_size']} (inside {folder / 'meta.pkl'})")
    if o.init_from == "scratch":
        if master:
            print("Initializing a new model from scratch")
            if "vocab_size" not in shape:
                print("defaulting to vocab_size of GPT-2 to 50304 (50257 rounded up for efficiency)")
        shape.setdefault("vocab_size", 50304)
        gpt = GPT(GPTConfig(**shape))
    elif o.init_from == "resume":
        if master:
            print(f"Resuming training from {o.out_dir}")
        saved = torch.load(Path(o.out_dir) / "ckpt.pt", map_location="cpu", weights_only=True)
        shape.update({name: saved["model_args"][name] for name in SHAPE})
        gpt = GPT(GPTConfig(**shape))
        gpt.load_state_dict({name.removeprefix("_orig_mod."): value for name, value in saved["model"].items()})
        first_iter, best = saved["iter_num"], saved["best_val_loss"]
    else:
        if master:
            print(f"Initializing from OpenAI GPT-2 weights: {o.init_from}")
        gpt = GPT.from_pretrained(o.init_from, {"dropout": o.dropout})
        shape.update({name: getattr(gpt.config, name) for name in SHAPE})
    if o.block_size < shape["block_size"]:
        gpt.crop_block_size(o.block_size)
        shape["block_size"] = o.block_size
    adamw = gpt.configure_optimizers(o.weight_decay, o.learning_rate, (o.beta1, o.beta2), "cpu")
    if saved:
        adamw.load_state_dict(saved["optimizer"])
    net: Any = torch.compile(gpt) if o.compile else gpt
    if o.compile and master:
        print("compiling the model... (takes a ~minute)")
    bare, net = net, DistributedDataParallel(net) if parallel else net

    # the loop
    if o.wandb_log and master:
        import wandb

        wandb.init(project=o.wandb_project, name=o.wandb_run_name, config=o.model_dump())
    now, mfu = time.perf_counter(), -1.0
    x, y = draw("train")
    start = time.perf_counter()
    for it in range(first_iter, max(int(o.max_iters), first_iter) + 1):
        if not o.decay_lr:
            rate = o.learning_rate
        elif it < o.warmup_iters:
            rate = o.learning_rate * (it + 1) / (o.warmup_iters + 1)
        elif it > o.lr_decay_iters:
            rate = o.min_lr
        else:
            phase = math.pi * ((it - o.warmup_iters) / (o.lr_decay_iters - o.warmup_iters))
            rate = o.min_lr + 0.5 * (1.0 + math.cos(phase)) * (o.learning_rate - o.min_lr)
        for group in adamw.param_groups:
            group["lr"] = rate

        if it % o.eval_interval == 0 and master:
            means = {}
            bare.eval()
            with torch.no_grad():
                for split in ("train", "val"):
                    values = torch.zeros(o.eval_iters)
                    for k in range(o.eval_iters):
                        pair = draw(split)
                        with autocast:
                            values[k] = bare(*pair)[1].item()
                    means[split] = values.mean()
            bare.train()
            print(f"step {it}: train loss {means['train']:.4f}, val loss {means['val']:.4f}")
            if o.wandb_log:
                losses = {f"{split}/loss": mean for split, mean in means.items()}
                wandb.log({"iter": it, **losses, "lr": rate, "mfu": mfu * 100})
            if o.always_save_checkpoint or means["val"] < best:
                best = means["val"]
                if it > 0:
                    state = {
                        "model": gpt.state_dict(),
                        "optimizer": adamw.state_dict(),
                        "model_args": shape,
                        "iter_num": it,
                        "best_val_loss": best,
                        "config": o.model_dump(),
                    }
                    print(f"saving checkpoint to {o.out_dir}")
                    torch.save(state, Path(o.out_dir) / "ckpt.pt")
        if it == 0 and o.eval_only:
            break

        for micro in range(micro_steps):
            if parallel:
                net.require_backward_grad_sync = micro + 1 == micro_steps
            with autocast:
                loss = net(x, y)[1] / micro_steps
            x, y = draw("train")
            loss.backward()
        if o.grad_clip > 0:
            torch.nn.utils.clip_grad_norm_(net.parameters(), o.grad_clip)
        adamw.step()
        adamw.zero_grad(set_to_none=True)

        now, took = time.perf_counter(), time.perf_counter() - start
        start = now
        if it % o.log_interval == 0 and master:
            if it - first_iter >= 5:
                share = gpt.estimate_mfu(o.batch_size * micro_steps, took)
                mfu = share if mfu == -1.0 else 0.9 * mfu + 0.1 * share
            shown = loss.item() * micro_steps
            print(f"iter {it}: loss {shown:.4f}, time {took * 1000:.2f}ms, mfu {mfu * 100:.2f}%")


if __name__ == "__main__":
    train(sys.argv[1:])
    if dist.is_initialized():
        gc.collect()  # free the wrapped model before its process group, otherwise the process may abort
        dist.destroy_process_group()
