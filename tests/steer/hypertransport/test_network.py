"""Parameter counts of the paper, the start at the identity, and what a network keeps apart."""

from __future__ import annotations

import pytest
import torch

from trimtab.errors import ShapeError
from trimtab.steer.hypertransport.network import HyperNetwork, Sizes

SMALL = Sizes(concept=16, key=8, shape=4, kind=4, query=16, hidden=32, blocks=1)
WIDTHS = {"a:out": 3, "b:out": 5, "c:out": 3}


def network(widths=WIDTHS, embedding=6, sizes=SMALL, seed=0):
    return HyperNetwork(widths, embedding, sizes, seed)


def rows(n):
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(0))


def moved(seed=0, **more):
    """With a head that is not zero."""
    one = network(seed=seed, **more)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(2)
        one.head[1].weight.normal_()
    return one


def test_parameter_counts_are_the_paper_s_for_norms_of_a_u_net():
    six = [320, 640, 960, 1280, 1920, 2560]
    with torch.device("meta"):
        counts = HyperNetwork({f"{k}:out": six[k % 6] for k in range(256)}, 768).counts()
    assert counts["queries"] == 131_584
    assert counts["adapter"] == 197_120
    assert counts["head"] == 1_313_792
    assert round(counts["blocks"] / 1e6, 2) == 3.67


def test_parameter_counts_are_the_paper_s_for_norms_of_a_transformer():
    with torch.device("meta"):
        counts = HyperNetwork({f"{k}:out": 1152 for k in range(56)}, 768).counts()
    assert (counts["queries"], counts["adapter"], counts["head"]) == (80_064, 197_120, 591_488)


def test_counts_are_all_parameters():
    one = network()
    assert sum(one.counts().values()) == sum(parameter.numel() for parameter in one.parameters())


def test_every_map_starts_at_the_identity_and_the_head_learns_at_once():
    one = network()
    found = one(rows(4))
    assert {site: tuple(values.shape) for site, values in found.items()} == {
        site: (4, 2, width) for site, width in WIDTHS.items()
    }
    assert all(torch.equal(values, torch.zeros_like(values)) for values in found.values())
    sum(values.sum() for values in found.values()).backward()
    assert one.head[1].weight.grad.abs().max() > 0


def test_sites_of_one_width_differ_by_their_keys_and_kinds_by_theirs():
    found = moved()(rows(1))
    assert not torch.allclose(found["a:out"], found["c:out"])
    assert not torch.allclose(found["a:out"][:, 0], found["a:out"][:, 1])


def test_concepts_of_a_batch_do_not_mix():
    one, given = moved(), rows(5)
    whole = one(given)
    for place, row in enumerate(given):
        for site, values in one(row[None]).items():
            torch.testing.assert_close(values[0], whole[site][place])


def test_the_seed_decides_and_the_caller_s_generator_stays():
    state = torch.random.get_rng_state()
    first, again, other = network(), network(), network(seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    pairs = list(zip(first.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.keys.weight, other.keys.weight)


def test_embeddings_of_another_width_are_refused():
    with pytest.raises(ShapeError, match=r"got embeddings of shape \(2, 5\), expected \(n, 6\)"):
        network()(torch.zeros(2, 5))


def test_sizes_that_no_network_has_are_told():
    told = [str(one) for one in Sizes(key=0, blocks=1.5).problems()]  # type: ignore[arg-type]
    assert told == [
        "sizes.key: got 0, expected a whole number, at least 1",
        "sizes.blocks: got 1.5, expected a whole number, at least 1",
    ]
