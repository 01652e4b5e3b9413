"""Hypernetwork from the embedding of a concept to affine maps at every site (arXiv 2605.08254)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from trimtab.errors import Problem, ShapeError, explain
from trimtab.seeds import derive, isolated

KINDS = 2
"""What is asked for at each site: the change of the weight, and the move."""


@dataclass(frozen=True)
class Sizes:
    """Widths of a hypernetwork; the defaults give the paper's parameter counts.

    The paper states the first five. Of its perceptron it gives 3.67 million parameters and no layers: two residual
    blocks 512 -> 1792 -> 512 without bias behind RMS norms have 3,671,040.

    Attributes:
        concept: of the adapted embedding.
        key: of the learned key of each query, which is one site and one kind.
        shape: of the embedding of a site's width; sites of one width share it.
        kind: of the embedding of the kind, weight or shift.
        query: of the projection of key, shape and kind.
        hidden: of the inner layer of each residual block.
        blocks: how many residual blocks.
    """

    concept: int = 256
    key: int = 128
    shape: int = 64
    kind: int = 64
    query: int = 256
    hidden: int = 1792
    blocks: int = 2

    def problems(self, where: str = "sizes") -> Iterator[Problem]:
        """Sizes that no network can have."""
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not int or value < 1:
                yield Problem(f"{where}.{field.name}", repr(value), "a whole number, at least 1")


class HyperNetwork(nn.Module):
    """Hypernetwork H: unit embeddings (n, e) -> coordinates (n, 2, d) of the map at each site.

    Coordinates are (weight - 1, move); `trimtab.steer.samples.Scale.map` makes a map of them. An adapter takes the
    embedding to `sizes.concept`: linear without bias, then a layer norm. One query per site and kind is a projection,
    without bias, of its key and the embeddings of its width and kind. Both together go through residual blocks, an RMS
    norm and one linear head as wide as the widest site, of which each site keeps as many outputs as it has units.

    The head starts at zero, so that every map starts at the identity. The paper does not state its initialisation.

    Parameters follow from the paper's figures where these fix them, with embeddings of 768 dimensions:

    | part | U-Net of DMD2: 256 sites, 6 widths up to 2560 | Nitro-1-PixArt: 56 sites of width 1152 |
    |---|---|---|
    | keys, shapes, kinds and their projection | 512*128 + 6*64 + 2*64 + 256*256 = 131,584 | 80,064 |
    | adapter | 768*256 + 2*256 = 197,120 | 197,120 |
    | RMS norm and head | 512 + 512*2560 + 2560 = 1,313,792 | 512 + 513*1152 = 591,488 |

    The counts of the head leave 512 parameters beside a linear map with bias: a norm with a gain alone.

    Attributes:
        widths: site name -> number of units.
        embedding: e, the width of embeddings.
        sizes: widths inside.
        places: which of the distinct widths each query has.
    """

    places: Int[Tensor, " q"]

    def __init__(
        self, widths: Mapping[str, int], embedding: int, sizes: Sizes | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.widths, self.embedding, self.sizes = dict(widths), embedding, sizes or Sizes()
        own, both = self.sizes, self.sizes.concept + self.sizes.query
        distinct = sorted(set(self.widths.values()))
        with isolated(derive(seed, "hypernetwork")):
            self.adapter = nn.Sequential(
                nn.Linear(embedding, own.concept, bias=False), nn.LayerNorm(own.concept)
            )
            self.keys = nn.Embedding(KINDS * len(self.widths), own.key)
            self.shapes = nn.Embedding(len(distinct), own.shape)
            self.kinds = nn.Embedding(KINDS, own.kind)
            self.query = nn.Linear(own.key + own.shape + own.kind, own.query, bias=False)
            self.blocks = nn.Sequential(*(_Block(both, own.hidden) for _ in range(own.blocks)))
            self.head = nn.Sequential(nn.RMSNorm(both), nn.Linear(both, distinct[-1]))
        for zero in self.head[1].parameters():
            nn.init.zeros_(zero)
        places = torch.tensor([distinct.index(width) for width in self.widths.values()])
        self.register_buffer("places", places.repeat_interleave(KINDS), persistent=False)

    def forward(self, concepts: Float[Tensor, "n e"]) -> dict[str, Float[Tensor, "n 2 d"]]:
        """Coordinates of the maps of n concepts, by site name.

        Raises:
            ShapeError: embeddings of another width.
        """
        if concepts.ndim != 2 or concepts.shape[1] != self.embedding:
            got = f"embeddings of shape {tuple(concepts.shape)}"
            raise ShapeError(explain(got, f"(n, {self.embedding})"))
        adapted, queries = self.adapter(concepts), self._queries()
        n, q = len(adapted), len(queries)
        pairs = torch.cat([adapted[:, None].expand(n, q, -1), queries[None].expand(n, q, -1)], dim=-1)
        found = self.head(self.blocks(pairs)).unflatten(1, (-1, KINDS))
        return {site: found[:, place, :, :width] for place, (site, width) in enumerate(self.widths.items())}

    def counts(self) -> dict[str, int]:
        """Parameters of each part, as the paper groups them."""
        parts = {
            "queries": (self.keys, self.shapes, self.kinds, self.query),
            "adapter": (self.adapter,),
            "blocks": (self.blocks,),
            "head": (self.head,),
        }
        return {
            name: sum(p.numel() for part in own for p in part.parameters()) for name, own in parts.items()
        }

    def _queries(self) -> Float[Tensor, "q query"]:
        kinds = torch.arange(KINDS, device=self.places.device).repeat(len(self.widths))
        embedded = (self.keys.weight, self.shapes(self.places), self.kinds(kinds))
        projected: Tensor = self.query(torch.cat(embedded, dim=-1))
        return projected


class _Block(nn.Module):
    """Residual block: x + down(GELU(up(norm(x))))."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.RMSNorm(width),
            nn.Linear(width, hidden, bias=False),
            nn.GELU(),
            nn.Linear(hidden, width, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.inner(x)
        return x + change
