"""Seeded is a context in which torch draws from a seed."""

import torch


class Seeded:
    """A context in which torch's CPU generator is seeded; afterwards it has its earlier state again."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> None:
        self.state = torch.random.get_rng_state()
        torch.default_generator.manual_seed(self.seed)  # torch.manual_seed would seed every GPU as well

    def __exit__(self, *_: object) -> None:
        torch.random.set_rng_state(self.state)
