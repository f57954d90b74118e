"""DualModeProvider, batches for unmasking and for sequence scoring in one queue."""

import torch

from core.errors import ConfigError
from data.streaming.batch_file import StoredBatch
from data.streaming.provider import Provider, schema


class DualModeProvider(Provider):
    """Provider that draws, by weight, which of two providers makes the next batches.

    providers:             by the model_mode of their batches
    mode_distribution:     weight of each provider, by model_mode; None: equal weights
    alternation_frequency: number of consecutive batches of one provider per draw
    """

    def __init__(
        self,
        providers: dict[str, Provider],
        mode_distribution: dict[str, float] | None = None,
        alternation_frequency: int = 1,
    ) -> None:
        self.providers = providers
        weights = mode_distribution or dict.fromkeys(providers, 0.5)
        if unknown := sorted(set(weights) - set(providers)):
            raise ConfigError(f"mode_distribution names {', '.join(unknown)}, wanted {' and '.join(providers)}")
        self.weights = torch.tensor([float(weights.get(mode, 0)) for mode in providers])
        if (self.weights < 0).any() or not self.weights.sum() > 0:
            raise ConfigError(f"mode_distribution={weights}: wanted weights of 0 or more, not all of them 0")
        self.alternation_frequency = alternation_frequency
        metas = {mode: provider.meta for mode, provider in providers.items()}
        sizes = {mode: meta["vocab_size"] for mode, meta in metas.items()}
        if len(set(sizes.values())) > 1:
            raise ConfigError(f"the two providers differ in vocab_size ({sizes}): give both the same text")
        first = next(iter(metas.values()))
        self.meta = {
            **{key: value for meta in metas.values() for key, value in meta.items()},
            "training_type": "DUAL_MODE",
            "mode_distribution": dict(weights),
            "alternation_frequency": alternation_frequency,
            "largest_token_id": first["vocab_size"] - 1,
            "batch_schema": [
                *schema(first["block_size"], [])[:1],
                {"name": "target", "dtype": "variant", "role": "target"},
            ],
        }

    def batches(self, split: str, count: int, generator: torch.Generator) -> list[StoredBatch]:
        draws = -(-count // self.alternation_frequency)
        drawn = torch.multinomial(self.weights, draws, replacement=True, generator=generator)
        indices = drawn.repeat_interleave(self.alternation_frequency)[:count].tolist()
        batches = [
            iter(provider.batches(split, indices.count(index), generator) if index in indices else [])
            for index, provider in enumerate(self.providers.values())
        ]
        return [next(batches[index]) for index in indices]
