"""Responses of units to examples: one pooled activation each, read in as many passes as memory asks for.

Units are numbered through, site by site; by default they are the outputs of the linear maps of every block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from trimtab.data.concept import Example
from trimtab.errors import DataError, ModelError, TrimtabError, explain
from trimtab.models.batches import Pool, evaluating, pool, row_batches, token_rows
from trimtab.models.families import FAMILIES, towers
from trimtab.models.hooks import capture
from trimtab.models.inspection import is_linear
from trimtab.models.load import Model
from trimtab.models.sites import Site, modules_of, network_of, resolve
from trimtab.runs.brief import one_line


@dataclass(frozen=True)
class Units:
    """Numbering of the units of several sites, in the order of the sites.

    Attributes:
        sites: their names.
        widths: units of each.
    """

    sites: tuple[str, ...]
    widths: tuple[int, ...]

    def __len__(self) -> int:
        """Number of units.

        >>> len(Units(("a:out", "b:out"), (2, 3)))
        5
        """
        return sum(self.widths)

    @property
    def starts(self) -> Int[np.ndarray, " sites"]:
        """Number of each site's first unit."""
        return np.cumsum([0, *self.widths[:-1]])

    @property
    def site_numbers(self) -> Int[np.ndarray, " units"]:
        """Place of each unit's site."""
        return np.repeat(np.arange(len(self.sites)), self.widths)

    def named(self, units: Int[np.ndarray, " n"]) -> pd.DataFrame:
        """Site and number within the site: columns site, unit.

        >>> Units(("a:out", "b:out"), (2, 3)).named(np.array([4, 0])).values.tolist()
        [['b:out', 2], ['a:out', 0]]
        """
        owners = self.site_numbers[units]
        return pd.DataFrame({"site": [self.sites[n] for n in owners], "unit": units - self.starts[owners]})

    def by_site(self, units: Int[np.ndarray, " n"]) -> Mapping[str, Sequence[int]]:
        """Site -> numbers of units within it, for sites that have any."""
        frame = self.named(units)
        return {str(site): part["unit"].tolist() for site, part in frame.groupby("site", sort=False)}


def linear_sites(model: Model | nn.Module) -> tuple[Site, ...]:
    """Sites of all linear maps inside the blocks: query, key, value, attention out, MLP in (and gate), MLP out.

    Fused maps (query, key and value of GPT-2 and GPT-NeoX) are one site. A LoRA layer counts as the map that it adapts.

    Args:
        model: a handle or a network of a known family, with or without a PEFT wrapper; of all towers if it has several.

    Raises:
        ModelError: a family that we have no table for, or a compiled model.
    """
    network = network_of(model)
    blocks = tuple(f"{family.blocks}." for family in towers(network).values())
    if not blocks:
        got = f"a {type(network).__name__}, whose blocks we do not know"
        expected, hint = f"one of {', '.join(FAMILIES)}", 'patterns such as "layers.*.mlp"'
        raise ModelError(f"sites '*': {explain(got, expected, hint)}")
    return tuple(
        Site(path)
        for path, module in modules_of(network).items()
        if path.startswith(blocks) and is_linear(getattr(module, "base_layer", module))
    )


Sites = str | Sequence[str]
Progress = Callable[[int, int], None]
MEMORY = 3 * 2**28
"""Bytes of responses held at once; sites that do not fit together are read in further passes."""


@dataclass(eq=False)
class Responses:
    """Pooled activation of every unit for every example, read when it is asked for.

    Responses that fit into `MEMORY` together are read once and kept; else each call of `blocks` reads all anew,
    a few sites at a time.

    Attributes:
        model: in evaluation mode while it is read; nothing about it changes.
        examples: different ones.
        sites: where to read; "*" means the outputs of all linear maps of every block.
        pool: "max", "mean" or "last" over valid tokens, "max" or "mean" over places of a picture.
        batch_size: examples at a time.
        max_tokens: longer texts are cut; None refuses those beyond the model's limit.
        progress: called with how many examples of all passes were read, and of how many.
        cut: (examples,) which texts were longer than `max_tokens` and lost their end.
        longest: tokens of the longest of those, before it was cut; 0 where none was.

    Raises:
        ModelError: no such pool or site, none at all, or a model that cannot read such examples; before anything is
            read.
    """

    model: Model
    examples: Sequence[Example]
    sites: Sites = "*"
    pool: Pool = "max"
    batch_size: int = 32
    max_tokens: int | None = None
    progress: Progress | None = None

    def __repr__(self) -> str:
        sizes = f"{len(self.examples)} examples, {len(self.units)} units"
        return one_line("Responses", sizes, f"of {self.model.name!r}")

    def __post_init__(self) -> None:
        pool(torch.zeros(1, 1), self.pool)
        everything = self.sites == "*" or list(self.sites) == ["*"]
        self._sites = linear_sites(self.model) if everything else resolve(self.model, self.sites)
        if not self._sites:
            got = f"a {type(self.model.module).__name__} without linear maps in its blocks"
            raise ModelError(f"sites '*': {explain(got, 'at least one', 'sites that name its modules')}")
        for name, value in (("batch_size", self.batch_size), ("max_tokens", self.max_tokens)):
            if value is not None and value < 1:
                raise ModelError(f"{name}: {explain(value, 'at least 1')}")
        count = len(self.examples)
        self.cut, self.longest, self._order = np.zeros(count, dtype=bool), 0, np.arange(count)
        self._tokens: list[list[int]] | None = None
        self._kept: Float[np.ndarray, "examples units"] | None = None
        if isinstance(self.examples[0], str):
            tokenizer, texts = self.model.need_tokenizer(), [str(one) for one in self.examples]
            self._tokens = tokens = token_rows(tokenizer, texts, max_tokens=self.max_tokens)
            if self.max_tokens is not None:
                full = [number for number, row in enumerate(tokens) if len(row) >= self.max_tokens]
                for number, row in zip(full, token_rows(tokenizer, [texts[n] for n in full]), strict=True):
                    self.cut[number] = len(row) > len(tokens[number])
                    self.longest = max(self.longest, len(row))
            # Texts of about one length together: less padding, and batches do not follow concepts.
            self._order = np.argsort([len(row) for row in tokens], kind="stable")
            row_batches(self.model, tokens, batch_size=self.batch_size)  # refuses those that are too long
        elif self.model.processor is None and not all(isinstance(one, Tensor) for one in self.examples):
            got = f"pictures for {self.model.name}, which has no processor"
            raise ModelError(explain(got, "tensors (C, H, W) of pixel values", "load(..., processor=...)"))

    def _batch(self, number: int) -> tuple[Int[np.ndarray, " b"], Mapping[str, Any]]:
        """Batch by its number: which examples it has, and the keywords of a forward pass."""
        rows = self._order[number * self.batch_size : (number + 1) * self.batch_size]
        if self._tokens is not None:
            (padded,) = row_batches(
                self.model, [self._tokens[row] for row in rows], batch_size=self.batch_size
            )
            return rows, padded.arguments(self.model.module)
        pictures = [self.examples[row] for row in rows]
        if not all(isinstance(one, Tensor) for one in pictures):
            made = self.model.processor(images=pictures, return_tensors="pt")
            return rows, {name: value.to(self.model.device) for name, value in made.items()}
        if len(shapes := {tuple(one.shape) for one in pictures}) > 1:
            got = f"pictures of shapes {sorted(shapes)}"
            raise DataError(explain(got, "one shape", "a processor"))
        return rows, {"pixel_values": torch.stack(pictures).to(self.model.device)}

    @cached_property
    def units(self) -> Units:
        """Sites and their widths, from one look at the first batch.

        Raises:
            ModelError: the model does not take such examples alone, as one of pictures or of two texts at a time.
        """
        _, keywords = self._batch(0)
        try:
            read = self._read(self._sites, keywords)
        except TrimtabError:
            raise
        except (TypeError, ValueError, AttributeError) as error:
            got = f"a {type(self.model.module).__name__} that refuses them ({error})"
            raise ModelError(explain(got, f"a model that takes {' and '.join(keywords)}")) from error
        return Units(tuple(read), tuple(values.shape[1] for values in read.values()))

    def blocks(self) -> Iterator[tuple[slice, Float[np.ndarray, "examples units"]]]:
        """Responses of neighbouring units, as many at a time as memory holds, and which units they are.

        Raises:
            ModelError: a response that is not a finite number.
        """
        if self._kept is not None:
            yield slice(0, len(self.units)), self._kept
            return
        firsts, held = [0], 0
        for number, width in enumerate(self.units.widths):
            size = 4 * width * len(self.examples)
            if number > firsts[-1] and held + size > MEMORY:
                firsts, held = [*firsts, number], 0
            held += size
        for number, (first, last) in enumerate(pairwise([*firsts, len(self.units.widths)])):
            values = self._pass(first, last, number, len(firsts))
            if len(firsts) == 1:
                self._kept = values
            start = int(self.units.starts[first])
            yield slice(start, start + values.shape[1]), values

    def of(self, rows: Sequence[int] | np.ndarray, columns: np.ndarray) -> Float[np.ndarray, "rows columns"]:
        """Responses of the given units to the given examples."""
        responses = np.empty((len(rows), len(columns)), dtype=np.float32)
        for units, values in self.blocks():
            inside = (columns >= units.start) & (columns < units.stop)
            responses[:, inside] = values[np.ix_(rows, columns[inside] - units.start)]
        return responses

    @property
    def token_ids(self) -> Sequence[Sequence[int]]:
        """Token ids of each example as they are read; none where the examples are pictures."""
        return self._tokens or []

    def by_token(
        self, site: str, rows: Sequence[int], units: Sequence[int]
    ) -> list[Float[np.ndarray, " tokens"]]:
        """Activation of a unit at every token of a text, one array for each pair of an example and a unit.

        Args:
            site: its name, as in `units`.
            rows: numbers of examples; their texts are read again, with the activations of this site alone.
            units: one for each, numbered within the site.

        Returns:
            Empty arrays where the site has no place for each token, as one behind pooling.
        """
        (where,) = (one for one in self._sites if one.name == site)
        different = list(dict.fromkeys(rows))
        read: dict[int, Tensor] = {}
        for start in range(0, len(different), self.batch_size):
            batch = different[start : start + self.batch_size]
            ids = [self.token_ids[row] for row in batch]
            (padded,) = row_batches(self.model, ids, batch_size=self.batch_size)
            with evaluating(self.model.module), capture(self.model, where) as taken:
                self.model.module(**padded.arguments(self.model.module))
            values = taken[site].float().cpu()
            if values.ndim != 3 or values.shape[1] != padded.ids.shape[1]:
                return [np.empty(0, dtype=np.float32)] * len(rows)
            read |= {row: values[k, : len(ids[k])] for k, row in enumerate(batch)}
        return [read[row][:, unit].numpy() for row, unit in zip(rows, units, strict=True)]

    def _pass(self, first: int, last: int, number: int, passes: int) -> Float[np.ndarray, "examples units"]:
        """Responses of all examples at neighbouring sites, in one pass."""
        width = sum(self.units.widths[first:last])
        values = np.empty((len(self.examples), width), dtype=np.float32)
        done = 0
        for batch in range(-(-len(self.examples) // self.batch_size)):
            rows, keywords = self._batch(batch)
            read = self._read(self._sites[first:last], keywords)
            values[rows] = np.concatenate([part.numpy() for part in read.values()], axis=1)
            done += len(rows)
            if self.progress is not None:
                self.progress(number * len(self.examples) + done, passes * len(self.examples))
        if not np.isfinite(values).all():
            wrong = int((~np.isfinite(values)).any(0).sum())
            got = f"nan or infinity in {wrong} of {width} units"
            raise ModelError(explain(got, "finite activations", "float32, or a look at the examples"))
        return values

    def _read(self, sites: Sequence[Site], keywords: Mapping[str, Any]) -> dict[str, Tensor]:
        with evaluating(self.model.module), capture(self.model, sites, self.pool) as taken:
            self.model.module(**keywords)
        return {site: taken[site].float().cpu() for site in taken}
