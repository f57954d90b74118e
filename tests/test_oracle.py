"""
Expected values that were measured by running nanoGPT itself, on data computed by a formula.

Measured in float32, one thread, on CPU, with train.py, sample.py and model.py of nanoGPT, changed only to print all
digits of the losses.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sample
import train
from core import Callback, StepResult, Trainer
from model import GPT, GPTConfig

VOCAB = 65
SHAPE = dict(n_layer=2, n_head=2, n_embd=32, block_size=16, vocab_size=VOCAB, dropout=0.0)

# the first and the last element of every matrix after torch.manual_seed(1337), by `bias`
FIRST_WEIGHTS = {
    False: {
        "transformer.wte.weight": (0.00083060, -0.00619465),
        "transformer.wpe.weight": (0.01264848, -0.03045943),
        "transformer.h.0.attn.c_attn.weight": (-0.00322037, 0.00325526),
        "transformer.h.0.attn.c_proj.weight": (0.00502884, 0.00461813),
        "transformer.h.0.mlp.c_fc.weight": (0.00888978, 0.01766598),
        "transformer.h.0.mlp.c_proj.weight": (0.01930756, -0.00718497),
        "transformer.h.1.attn.c_attn.weight": (-0.00505711, -0.01402126),
        "transformer.h.1.attn.c_proj.weight": (-0.00820773, 0.00779969),
        "transformer.h.1.mlp.c_fc.weight": (-0.02881103, -0.03851823),
        "transformer.h.1.mlp.c_proj.weight": (0.01035506, -0.00075994),
        "lm_head.weight": (0.00083060, -0.00619465),
    },
    True: {
        "transformer.wte.weight": (0.01956184, 0.01520290),
        "transformer.wpe.weight": (-0.00553302, 0.00033088),
        "transformer.h.0.attn.c_attn.weight": (-0.02201710, -0.00726744),
        "transformer.h.0.attn.c_proj.weight": (0.00044127, 0.00176389),
        "transformer.h.0.mlp.c_fc.weight": (0.00175419, 0.01145678),
        "transformer.h.0.mlp.c_proj.weight": (0.00652104, 0.00226205),
        "transformer.h.1.attn.c_attn.weight": (0.01827422, -0.02113865),
        "transformer.h.1.attn.c_proj.weight": (0.01892941, -0.00207005),
        "transformer.h.1.mlp.c_fc.weight": (-0.03812046, 0.03016580),
        "transformer.h.1.mlp.c_proj.weight": (-0.02027168, 0.01266517),
        "lm_head.weight": (0.01956184, 0.01520290),
    },
}

# train.py's losses: of each iteration, and (train, val) of each evaluation
PLAIN = dict(gradient_accumulation_steps=1, learning_rate=0.01, min_lr=0.001, warmup_iters=2, lr_decay_iters=9,
             eval_interval=100)  # fmt: skip
DROPOUT = dict(gradient_accumulation_steps=4, dropout=0.2, bias=True, grad_clip=0.1, weight_decay=0.5,
               learning_rate=0.01, min_lr=0.001, warmup_iters=2, lr_decay_iters=7, eval_interval=100)  # fmt: skip
CONSTANT = dict(gradient_accumulation_steps=1, decay_lr=False, grad_clip=0.0, weight_decay=0.0, learning_rate=0.003,
                eval_interval=4, beta2=0.99)  # fmt: skip
FIRST_LOSSES = {
    "plain": (
        PLAIN,
        [4.166850566864014, 4.1440749168396, 4.138101100921631, 4.052753448486328, 4.027958869934082,
         3.978322982788086, 4.006643772125244, 4.009305000305176, 3.8332765102386475, 3.9749505519866943],
        [(4.204235076904297, 4.179050922393799)],
    ),
    "dropout, accumulation, bias, clipped gradients": (
        DROPOUT,
        [4.151059150695801, 4.125725269317627, 4.0887041091918945, 3.978600263595581, 3.8864688873291016,
         3.836287260055542, 3.7941105365753174, 3.7530040740966797, 3.739690065383911, 3.757091999053955],
        [(4.187277317047119, 4.1820197105407715)],
    ),
    "constant rate, no clipping, no decay, several evaluations": (
        CONSTANT,
        [4.166850566864014, 4.148532390594482, 4.132643699645996, 4.0836181640625, 4.0884809494018555,
         4.061900615692139, 3.9584639072418213, 4.064642429351807, 4.0385050773620605, 3.9006195068359375],
        [(4.204235076904297, 4.179050922393799), (4.108158588409424, 4.062091827392578),
         (3.954329252243042, 3.9716873168945312)],
    ),
}  # fmt: skip

SAMPLES = """\
number of parameters: 0.03M
Loading meta from data/letters/meta.pkl...
ABcAWLLWWRWRaagc;`WW0n<kLd
---------------
ABaccWAca[aRRcWcgR;CLWoana
---------------
ABWLaan6R]W?ecjLWRfWkWj;RG
---------------
"""


class Losses(Callback):
    """Records every loss of a run."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.evaluations: list[tuple[float, float]] = []

    def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
        self.steps.append(result.loss.item() * trainer.step.gradient_accumulation_steps)

    def on_eval_end(self, trainer: Trainer, losses: dict[str, torch.Tensor]) -> None:
        self.evaluations.append((losses["train"].item(), losses["val"].item()))


@pytest.fixture
def formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter a folder with data/formula, whose token i is (i * i // 5 + 3 * i) modulo 65."""
    folder = tmp_path / "data" / "formula"
    folder.mkdir(parents=True)
    for split, first, count in (("train", 0, 3000), ("val", 3000, 600)):
        i = np.arange(first, first + count, dtype=np.int64)
        ((i * i // 5 + 3 * i) % VOCAB).astype(np.uint16).tofile(folder / f"{split}.bin")
    (folder / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": VOCAB}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("bias", [False, True])
def test_initial_weights_equal_nanogpts(bias: bool) -> None:
    model = GPT(GPTConfig(**SHAPE, bias=bias))

    state = model.state_dict()
    for name, ends in FIRST_WEIGHTS[bias].items():
        flat = state[name].flatten()
        assert (flat[0].item(), flat[-1].item()) == pytest.approx(ends, abs=1e-6), name
    assert all(state[name].dim() == 1 for name in set(state) - set(FIRST_WEIGHTS[bias]))


def has_the_measured_generator() -> bool:
    """Return True if dropout and sampling use PyTorch's own generator here, and not a vendor's library."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        uniform = torch.rand(100, dtype=torch.float64)
        torch.manual_seed(0)
        bernoulli = torch.empty(100).bernoulli_(0.5)
        torch.manual_seed(0)
        exponential = torch.empty(100).exponential_()
    same_exponential = torch.allclose(exponential, -torch.log1p(-uniform).float(), atol=1e-5)
    return torch.equal(bernoulli, (uniform < 0.5).float()) and same_exponential


@pytest.mark.parametrize("name", FIRST_LOSSES)
def test_first_losses_equal_nanogpts(name: str, formula: Path) -> None:
    options, steps, evaluations = FIRST_LOSSES[name]
    if "dropout" in options and not has_the_measured_generator():
        pytest.skip("dropout draws other numbers on this processor or build of PyTorch")
    argv = dict(dataset="formula", device="cpu", compile=False, n_layer=2, n_head=2, n_embd=32, block_size=16,
                batch_size=4, max_iters=9, eval_iters=3)  # fmt: skip
    losses = Losses()

    lowest = train.main([f"--{key}={value}" for key, value in {**argv, **options}.items()], [losses])

    assert losses.steps == pytest.approx(steps, abs=1e-5)
    assert np.ravel(losses.evaluations) == pytest.approx(np.ravel(evaluations), abs=1e-5)
    assert lowest == pytest.approx(min(val for _, val in evaluations), abs=1e-5)


@pytest.mark.parametrize(
    ("bias", "without_positions", "all_parameters", "mfu", "undecayed"),
    [(False, 26816, 27328, 1.7051963076923076e-06, (5, 160)), (True, 27552, 28064, 1.748676923076923e-06, (18, 896))],
)
def test_sizes_groups_and_mfu_equal_nanogpts(
    bias: bool, without_positions: int, all_parameters: int, mfu: float, undecayed: tuple[int, int]
) -> None:
    model = GPT(GPTConfig(**SHAPE, bias=bias))
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cpu")

    def size(group: dict[str, Any]) -> tuple[int, int]:
        return len(group["params"]), sum(parameter.numel() for parameter in group["params"])

    assert model.get_num_params() == without_positions
    assert model.get_num_params(non_embedding=False) == all_parameters
    assert model.estimate_mfu(48, 0.25) == pytest.approx(mfu, rel=1e-12)
    assert [size(group) for group in optimizer.param_groups] == [(10, 27168), undecayed]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]


@pytest.mark.parametrize(("bias", "loss"), [(False, 4.229959487915039), (True, 4.144726753234863)])
def test_the_loss_of_a_new_model_equals_nanogpts(bias: bool, loss: float) -> None:
    """One of the eight targets is -1 and is ignored."""
    idx = torch.tensor([[5, 4, 3, 2], [1, 0, 64, 9]])
    targets = torch.tensor([[4, 3, 2, 1], [0, 64, 9, -1]])

    assert GPT(GPTConfig(**SHAPE, bias=bias))(idx, targets)[1].item() == pytest.approx(loss, abs=1e-5)


def test_generated_ids_equal_nanogpts() -> None:
    if not has_the_measured_generator():
        pytest.skip("sampling draws other numbers on this processor or build of PyTorch")
    model = GPT(GPTConfig(**SHAPE, bias=False)).eval()

    torch.manual_seed(42)
    cooler = model.generate(torch.tensor([[1, 2, 3]]), 24, temperature=0.8, top_k=20)
    assert cooler[0, 3:].tolist() == [60, 23, 39, 7, 44, 44, 46, 50, 53, 19, 17, 60, 58, 58, 12, 39, 19, 52, 39, 19,
                                      15, 40, 52, 63]  # fmt: skip
    torch.manual_seed(42)
    assert model.generate(torch.tensor([[1, 2, 3], [7, 7, 7]]), 20)[:, 3:].tolist() == [
        [60, 47, 37, 24, 44, 0, 42, 15, 26, 3, 28, 4, 13, 10, 19, 52, 6, 31, 53, 16],
        [10, 16, 55, 25, 22, 60, 44, 39, 10, 61, 1, 21, 35, 41, 42, 8, 54, 64, 35, 52],
    ]


def test_sampled_text_equals_nanogpts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SAMPLES was printed by nanoGPT's sample.py from the same checkpoint: new weights, multiplied by 5."""
    if not has_the_measured_generator():
        pytest.skip("sampling draws other numbers on this processor or build of PyTorch")
    monkeypatch.chdir(tmp_path)
    chars = [chr(48 + i) for i in range(VOCAB)]
    meta = {"vocab_size": VOCAB, "itos": dict(enumerate(chars)), "stoi": {c: i for i, c in enumerate(chars)}}
    Path("data/letters").mkdir(parents=True)
    Path("data/letters/meta.pkl").write_bytes(pickle.dumps(meta))
    Path("out").mkdir()
    model = GPT(GPTConfig(**SHAPE, bias=False))
    weights = {name: tensor * 5 for name, tensor in model.state_dict().items()}
    torch.save(
        {"model": weights, "model_args": {**SHAPE, "bias": False}, "config": {"dataset": "letters"}}, "out/ckpt.pt"
    )
    options = dict(device="cpu", start="AB", num_samples=3, max_new_tokens=24, top_k=8, seed=7, temperature=1.5)
    capsys.readouterr()

    sample.main([f"--{key}={value}" for key, value in options.items()])

    echo = "".join(f"Overriding: {key} = {value}\n" for key, value in options.items())
    assert capsys.readouterr().out == echo + SAMPLES
