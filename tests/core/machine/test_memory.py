"""What a device's memory is, and the models and batches that cannot fit into it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.errors import ConfigError
from core.machine import memory
from core.machine.memory import cgroup_limits, require_memory, swap, total_memory
from model import GPTConfig

CPU = torch.device("cpu")
# 17 * 32 + 16 * 32 + 2 * (12 * 32**2 + 2 * 32) + 32 = 25,792 parameters; 8 * 32 * 2 + 17 = 529 numbers per token
TINY = GPTConfig(n_layer=2, n_head=2, n_embd=32, block_size=16, vocab_size=17, bias=False)


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({}, 25_792 * 4),
        ({"trains": True}, 25_792 * 16),
        ({"trains": True, "sequences": 10}, 25_792 * 16 + 10 * 16 * 529 * 4),
        ({"trains": True, "sequences": 10, "number_bytes": 2}, 25_792 * 16 + 10 * 16 * 529 * 2),
    ],
)
def test_a_model_is_refused_from_one_byte_too_many_on(
    settings: dict[str, int], needed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "total_memory", lambda device: needed)
    require_memory(TINY, CPU, **settings)  # type: ignore[arg-type]
    monkeypatch.setattr(memory, "total_memory", lambda device: needed - 1)
    with pytest.raises(ConfigError):
        require_memory(TINY, CPU, **settings)  # type: ignore[arg-type]


def test_the_message_has_both_numbers_and_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "total_memory", lambda device: 2**34)
    with pytest.raises(ConfigError) as large:
        require_memory(replace(TINY, n_layer=10**6), CPU, trains=True)
    with pytest.raises(ConfigError) as wide:
        require_memory(TINY, torch.device("cuda:1"), trains=True, sequences=10**6)

    assert str(large.value) == (
        "the model's 12,352,001,088 parameters with their gradients and AdamW's moments need 184.0 GiB, more than the "
        "16.0 GiB that this machine has: choose a smaller n_layer, n_embd, block_size or vocabulary"
    )
    assert str(wide.value) == (
        "the model's 25,792 parameters with their gradients and AdamW's moments need 403.0 KiB, and a batch of "
        "1,000,000 x 16 tokens at least 31.5 GiB, more than the 16.0 GiB that the GPU cuda:1 has: lower batch_size "
        "(and raise gradient_accumulation_steps as much) or block_size"
    )


def test_without_a_number_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork's config class counts no parameters, and some systems do not say how much memory they have."""
    require_memory(object(), CPU, trains=True, sequences=10**12)
    monkeypatch.setattr(memory, "total_memory", lambda device: None)
    require_memory(replace(TINY, n_layer=10**9), CPU)


def test_the_memory_is_that_of_the_machine_or_its_cgroup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}.__getitem__)
    monkeypatch.setattr(memory, "swap", lambda: 7)
    for limits, expected in (([], 4_096_007), ([2**62], 4_096_007), ([2**62, 500], 507)):
        monkeypatch.setattr(memory, "cgroup_limits", lambda limits=limits: iter(limits))
        assert total_memory(CPU) == expected


@pytest.mark.parametrize(
    ("line", "files", "expected"),
    [
        ("0::/job/step", {"job/step/memory.max": "300\n", "memory.max": "400\n"}, [300, 400]),
        ("0::/job", {"job/memory.max": "max\n"}, []),
        ("0::/job", {}, []),
        ("4:memory:/job", {"memory/job/memory.limit_in_bytes": "300\n", "memory.max": "1\n"}, [300]),
        ("4:cpu,cpuacct:/job", {"job/memory.max": "300\n"}, []),
    ],
)
def test_the_limits_of_cgroups_of_both_versions_are_read(
    line: str, files: dict[str, str], expected: list[int], tmp_path: Path
) -> None:
    (tmp_path / "proc").write_text(f"1:name=systemd:/\n{line}\n")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert list(cgroup_limits(tmp_path / "proc", tmp_path)) == expected


def test_the_swap_space_is_read(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:       24684092 kB\nSwapTotal:       2 kB\n")

    assert swap(tmp_path / "meminfo") == 2048
    assert swap(tmp_path / "none") == 0
