"""What a user probably meant: the nearest option or file, the options of other trainers, and typed dashes and quotes."""

import difflib
import re
import sys
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from core.commands import command

DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2015\u2212"  # a word processor makes them of - and --
LONGEST = 200  # characters of a value in a message
TYPOGRAPHIC = "\u2018\u2019\u201c\u201d\u201e\u00ab\u00bb"
QUOTES = TYPOGRAPHIC + "\"'`"

# names in litgpt, Hugging Face, nanochat, torchtitan, Megatron and others, by the option that they are here
_FOREIGN = {
    "learning_rate": "lr max_lr base_lr peak_lr init_lr",
    "max_iters": "max_steps num_iterations total_steps train_steps num_steps train_iters max_iterations num_train_steps iters training_steps",
    "out_dir": "output_dir save_dir checkpoint_dir ckpt_dir outdir log_dir work_dir logdir ckpt ckpt_path checkpoint_path model_path",
    "batch_size": "per_device_train_batch_size micro_batch_size train_batch_size device_batch_size bs bsz",
    "gradient_accumulation_steps": "grad_accum_steps grad_accum gradient_accumulation accumulation_steps "
    "gradient_accumulation_iters",
    "n_layer": "n_layers num_layers num_hidden_layers layers depth",
    "n_head": "n_heads num_heads num_attention_heads heads",
    "n_embd": "n_embed d_model hidden_size embed_dim emb_dim embedding_dim hidden_dim dim hidden",
    "block_size": "context_length seq_len max_seq_len sequence_length max_seq_length seq_length context_size ctx_len "
    "n_ctx max_length sequence_len",
    "dropout": "dropout_rate drop_rate dropout_p",
    "warmup_iters": "warmup_steps num_warmup_steps lr_warmup_steps warmup lr_warmup_iters",
    "lr_decay_iters": "lr_decay_steps decay_steps decay_iters",
    "lr_schedule": "lr_scheduler lr_scheduler_type scheduler lr_decay_style",
    "min_lr": "min_learning_rate end_lr final_lr eta_min",
    "grad_clip": "max_grad_norm clip_grad gradient_clip grad_norm_clip clip_grad_norm gradient_clip_val max_norm",
    "weight_decay": "wd",
    "beta1": "adam_beta1",
    "beta2": "adam_beta2",
    "init_from": "resume resume_from resume_from_checkpoint load_checkpoint model_type model_name model_name_or_path pretrained",
    "eval_interval": "eval_every eval_steps val_check_interval val_every val_interval evaluation_steps",
    "eval_iters": "eval_batches val_batches limit_val_batches",
    "save_interval": "save_every save_steps checkpoint_interval ckpt_interval checkpoint_every",
    "log_interval": "log_every logging_steps log_freq log_every_n_steps print_every",
    "dtype": "bf16 fp16 precision mixed_precision amp",
    "dataset": "data_dir data_path dataset_name train_data_path data data_root dataset_path",
    "compile": "torch_compile use_compile",
    "wandb_log": "use_wandb wandb report_to",
    "wandb_run_name": "run_name wandb_name",
    "seed": "random_seed manual_seed",
    "start": "prompt",
    "max_new_tokens": "max_tokens num_tokens",
    "num_samples": "n_samples num_return_sequences",
    "temperature": "temp",
}
FOREIGN = {foreign: option for option, names in _FOREIGN.items() for foreign in names.split()}
ADVICE = {
    **dict.fromkeys(
        ("resume", "resume_from", "resume_from_checkpoint", "load_checkpoint"),
        "--init_from=resume goes on with the run in out_dir",
    ),
    "bf16": "--dtype=bfloat16",
    "fp16": "--dtype=float16",
    **dict.fromkeys(
        ("epochs", "max_epochs", "num_train_epochs"), "the length of a run is max_iters, in iterations, or num_epochs"
    ),
    **dict.fromkeys(
        ("config", "config_file", "config_path", "cfg"),
        "give the config file without a flag: {train} config/x.py",
    ),
    **dict.fromkeys(
        ("gpus", "num_gpus", "n_gpus", "devices", "nproc_per_node"),
        "one process per GPU: {torchrun}",
    ),
    "help": "--help stands alone, or before the name of a section",
    "print_config": "--print_config stands alone",
}


def suggestion(key: str, names: Collection[str], dotted: Collection[str] = ()) -> str:
    """Return `, did you mean ...?` with at most three similar options, or an empty text if none is similar.

    names, dotted: the options, by their flat names and with their section or as another trainer writes them
    """
    last = key.rpartition(".")[2]
    meant, plain = FOREIGN.get(last), split_flag(key)[0]
    if "." in key:
        exact = [name for name in dotted if name.partition(".")[2] in (last, meant)]
    else:
        exact = [name for name in (meant or plain, plain) if name in names and name != key]
    advice = ADVICE.get(last, "").format(
        train=command("train.py"), torchrun=command("train.py", "torchrun --standalone --nproc_per_node=N")
    )
    if advice and not exact:
        return f": {advice}"
    edits, near = nearest(key, dotted if "." in key else names)
    similar = exact[:1] or (near[:3] if edits <= max(1, len(key) // 3) else [])
    if not similar:
        return ""
    return f", did you mean {' or '.join(map(repr, similar))}?" + (f" ({advice})" if advice else "")


def nearest(word: str, names: Iterable[str]) -> tuple[int, list[str]]:
    """Return the smallest edit distance from `word` to any of `names`, and the names at that distance."""
    smallest, near = sys.maxsize, list[str]()
    if len(word) > LONGEST:
        return smallest, near  # no name is similar, and the comparison would take minutes
    for name in sorted(names, key=lambda name: abs(len(name) - len(word))):
        if abs(len(name) - len(word)) > smallest:
            break  # the distance is at least the difference in length
        if (edits := edit_distance(word, name)) < smallest:
            smallest, near = edits, []
        if edits == smallest:
            near.append(name)
    return smallest, sorted(near)


def edit_distance(left: str, right: str) -> int:
    """Return the number of insertions, deletions, substitutions and swaps of neighbours between two words."""
    rows = [list(range(len(right) + 1))]
    for i, a in enumerate(left, 1):
        row = [i]
        for j, b in enumerate(right, 1):
            cost = min(rows[-1][j] + 1, row[j - 1] + 1, rows[-1][j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]


def near_file(path: str, endings: tuple[str, ...]) -> str | None:
    """Return the config file that `path` probably means, in its own folder or in config/; None if none is similar."""
    given = Path(path.strip().replace("\\", "/"))
    folders = dict.fromkeys([given.parent, Path("config") / given.parent, Path("config")])
    candidates = [file for folder in folders for ending in endings for file in sorted(folder.glob(f"*{ending}"))]
    by_name = {str(file): file for file in candidates if file.is_file() and file.name != "__init__.py"}
    for text, file in by_name.items():
        if file.name == given.name or file.stem == given.name:
            return text
    close = difflib.get_close_matches(given.stem, [file.stem for file in by_name.values()], n=1, cutoff=0.8)
    return next((text for text, file in by_name.items() if close and file.stem == close[0]), None)


def visible(text: str) -> str:
    """Return a text for a message, shortened; with escapes if it has control characters: a carriage return hides it."""
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def shown(value: object, to_text: Callable[[object], str] = repr) -> str:
    """Return a value for a message: in one line, shortened, and with the name of its type if it has no text."""
    try:
        text = " ".join(to_text(value).split())
    except Exception as error:  # of a class in a config file, or a number of more digits than Python prints
        return f"a value of type {type(value).__name__} that cannot be printed ({type(error).__name__})"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text):,} characters)"


def split_flag(argument: str) -> tuple[str, str, bool]:
    """Return the key and the value that an argument was probably meant to have, and whether it has a value."""
    key, equals, value = argument.strip().lstrip(DASHES).partition("=")
    value = value.strip().rstrip(",")
    if len(value) > 1 and value[0] in QUOTES and value[-1] in QUOTES:
        value = value[1:-1]
    return re.sub(f"[{DASHES}]", "_", key.strip()).lower(), value, bool(equals)
