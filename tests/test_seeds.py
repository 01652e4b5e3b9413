"""Seeds of what is drawn: the same numbers as PyTorch's own seeding."""

from __future__ import annotations

import pytest
import torch

from trimtab.seeds import seed_draws


def drawn(device: str) -> torch.Tensor:
    return torch.cat([torch.rand(3), torch.rand(3, device=device).cpu()])


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_draws_are_those_of_torch(device: str, seed: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        theirs = drawn(device)
        seed_draws(seed, torch.device(device))
        assert torch.equal(drawn(device), theirs)
