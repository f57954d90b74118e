"""Generators from numbers: the same numbers, the same draws, and no others."""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

from data.private_rng import generator

ROOT = Path(__file__).resolve().parents[2]


def draws(*numbers: int) -> tuple[int, ...]:
    return tuple(torch.randint(2**40, (3,), generator=generator(*numbers)).tolist())


def test_the_same_numbers_give_the_same_draws() -> None:
    assert draws(1337, 0, 2, 5) == draws(1337, 0, 2, 5)


def test_another_process_draws_the_same_whatever_its_hash_seed() -> None:
    code = "import torch; from data.private_rng import generator; "
    code += "print(torch.randint(2**40, (3,), generator=generator(1337, 1)).tolist())"
    env = os.environ | {"PYTHONHASHSEED": "2"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == str(list(draws(1337, 1)))


def test_neighbours_are_unrelated() -> None:
    """All of 4096 quadruples differ, and their first draws lie evenly."""
    numbers = list(product(range(8), repeat=4))
    first = torch.tensor([torch.rand(1, generator=generator(*four)).item() for four in numbers])

    assert len(set(first.tolist())) > 4090
    assert abs(first.mean() - 0.5) < 3 * (1 / 12 / 4096) ** 0.5
    assert abs(torch.corrcoef(torch.stack([first[:-1], first[1:]]))[0, 1]) < 3 / 4095**0.5


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((), (0,)),
        ((7,), (7, 0)),
        ((7, 0), (7, 0, 0)),
        ((1, 2), (2, 1)),
        ((1, 2), (1 + 2 * 2**32,)),
        ((1,), (1 + 2**32,)),
        ((2**32, 1), (0, 1 + 2**32)),
        ((1,), (-1,)),
    ],
)
def test_similar_numbers_give_different_draws(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    assert draws(*one) != draws(*other)


def test_the_global_generator_neither_matters_nor_moves() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = draws(3)
    assert torch.equal(torch.get_rng_state(), before)

    torch.manual_seed(2)
    assert draws(3) == one


def test_only_whole_numbers_are_seeds() -> None:
    with pytest.raises(TypeError):
        generator(1.5)  # type: ignore[arg-type]


def test_it_lives_on_the_cpu() -> None:
    assert generator(0).device == torch.device("cpu")
