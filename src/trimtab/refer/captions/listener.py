"""Listener: a frozen two-tower encoder that hears a caption and points at a picture.

A caption w and the pictures i of a set give P(i | w) = softmax_i(tau cos(text(w), picture(i))), with tau the
exponential of the encoder's logit scale: Dessi et al. 2023, "Cross-Domain Image Captioning with Discriminative
Finetuning" (arXiv 2304.01662), section 3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from trimtab.data.pictures import Pictures, read_pictures
from trimtab.errors import ConfigError, DataError, ShapeError, explain, nearest
from trimtab.models.encoders import TwoTower, two_tower
from trimtab.models.pictures import Picture
from trimtab.numerics.bootstrap import Interval, bootstrap, mean
from trimtab.refer.candidates import read_candidates
from trimtab.seeds import derive

TIE = 1e-6
"""Cosines nearer than this are equal: embeddings are float32, and differ in their last digits by size of batch."""
_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class Gallery:
    """Pictures as a listener sees them: unit rows, names, and which pictures are copies of each other.

    Attributes:
        names: one a picture.
        vectors: embeddings of length 1, in float32 on the CPU.
        keys: digests of the pixels; pictures of the same key are copies, whatever they are called.
    """

    names: tuple[str, ...]
    vectors: Float[Tensor, "pictures d"]
    keys: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def codes(self) -> Int[np.ndarray, " pictures"]:
        """Whole numbers, the same for copies of one picture."""
        return np.unique(np.array(self.keys), return_inverse=True)[1]

    def places(self, names: Sequence[object]) -> list[int]:
        """Rows of pictures by name, which may carry the ending of its file.

        Raises:
            DataError: there is no picture of a name; the nearest is named.
        """
        rows, found = {name: row for row, name in enumerate(self.names)}, []
        for name in map(str, names):
            row = rows.get(name, rows.get(name.rpartition(".")[0]))
            if row is None:
                got, expected = f"the picture {name!r}", f"one of {len(rows)} names"
                raise DataError(explain(got, expected, nearest(name, rows)))
            found.append(row)
        return found


Shown = Gallery | Pictures | str | Path | Mapping[Any, Picture] | Sequence[Picture] | Tensor
"""What a listener takes for pictures: what `read_pictures` reads, embeddings (pictures, d), or a gallery of its own."""


@dataclass(frozen=True)
class Listener:
    """Listener of captions: the two towers of CLIP and its kin, never trained here.

    Attributes:
        encoder: its towers, whose embeddings have length 1.
        scale: tau, the factor of cosines in `score`; None for the encoder's own (100 for the published CLIPs).
    """

    encoder: TwoTower
    scale: float | None = None

    def __post_init__(self) -> None:
        if self.scale is not None and not 0 < self.scale < np.inf:
            raise ConfigError(explain(f"scale={self.scale}", "a number above 0", "scale=None"))

    @classmethod
    def from_pretrained(cls, source: Any, *, scale: float | None = None, **settings: Any) -> Listener:
        """Listener of a folder, hub name, module, `Model` or `TwoTower`.

        Args:
            source: CLIP, SigLIP or VisionTextDualEncoder.
            scale: tau; None for the model's own.
            **settings: tokenizer, processor and device, as `two_tower` takes them.

        Raises:
            ModelError: no two towers, a part is missing, or texts would be pooled where they do not end.
        """
        return cls(two_tower(source, **settings), scale)

    @property
    def tau(self) -> float:
        """The factor of cosines: `scale`, or else the encoder's."""
        return float(self.encoder.scale if self.scale is None else self.scale)

    @property
    def name(self) -> str:
        """The name of its model."""
        return self.encoder.name

    def gallery(self, pictures: Shown) -> Gallery:
        """Embedded pictures, to be used again: every other method takes them in the place of pictures.

        Embeddings that are given have no pixels: each is its own picture, unless it is a row of a `Gallery`.

        Raises:
            DataError: a picture that cannot be read, or none at all.
            ShapeError: embeddings that are not (pictures, d) of finite numbers above 0 in length.
        """
        if isinstance(pictures, Gallery):
            return pictures
        if isinstance(pictures, Tensor):
            names = tuple(map(str, range(len(pictures))))
            return Gallery(names, _unit(pictures), names)
        shown = read_pictures(pictures)
        parts, keys = [], []
        for start in range(0, len(shown), _AT_ONCE):
            images = shown.images(shown.names[start : start + _AT_ONCE])
            keys += [pixel_key(image) for image in images]
            parts.append(self.encoder.pictures(images))
        return Gallery(shown.names, torch.cat(parts), tuple(keys))

    def similarity(self, captions: Sequence[str], pictures: Shown) -> Float[Tensor, "captions pictures"]:
        """Cosines of captions and pictures, in [-1, 1], in float64.

        Raises:
            DataError: captions that are not a list of texts, or what `gallery` raises.
            ShapeError: embeddings of pictures of another width than those of captions.
        """
        gallery = self.gallery(pictures)
        return self._heard(captions, gallery) @ gallery.vectors.double().T

    def score(self, captions: Sequence[str], pictures: Shown) -> Float[Tensor, "captions pictures"]:
        """Log-probability of each picture for each caption: log-softmax over the pictures of tau cos, in nats.

        The exponentials of a row sum to 1. A copy of a picture is one more picture, and takes half of its probability.

        Raises:
            DataError: as `similarity`.
        """
        return (self.tau * self.similarity(captions, pictures)).log_softmax(dim=-1)

    def choose(self, captions: Sequence[str], candidates: Any, *, pictures: Shown | None = None) -> list[int]:
        """Place of the nearest picture among the candidates of each caption; the first of several at one cosine.

        Args:
            captions: one a choice.
            candidates: pictures that all captions share, or with `pictures` a list of names for each caption, such as
                the column `candidates` of `hard_candidates`.
            pictures: what the names stand for.

        Raises:
            DataError: as `similarity`; not as many sets as captions, an empty set, or a name that no picture has.
        """
        if pictures is None:
            cosines = self.similarity(captions, candidates)
            return [] if not len(cosines) else _nearest(cosines)
        gallery, sets = self.gallery(pictures), list(candidates)
        heard = self._heard(captions, gallery)
        if len(sets) != len(heard):
            raise DataError(
                explain(f"{len(sets)} candidate sets of {len(heard)} captions", "one set a caption")
            )
        if not all(len(names) for names in sets):
            raise DataError(explain("an empty candidate set", "at least one picture in each"))
        rows = [gallery.places(names) for names in sets]
        vectors = gallery.vectors.double()
        return [_nearest(vectors[of] @ word)[0] for of, word in zip(rows, heard, strict=True)]

    def nearest(self, captions: Sequence[str], candidates: pd.DataFrame, pictures: Shown) -> list[list[str]]:
        """Names of the nearest candidates of each caption, all that are equally near; copies of a target are masked.

        Args:
            captions: one a candidate set, in order.
            candidates: item, candidates and target (see `read_candidates`).
            pictures: what the names stand for.

        Raises:
            DataError: not a caption for each, or what `gallery` raises.
        """
        gallery, given = self.gallery(pictures), read_candidates(candidates)
        heard = self._heard(_texts_of(captions, list(given["item"])), gallery)
        vectors, found = gallery.vectors.double(), []
        for (target, others), word in zip(given_sets(gallery, given), heard, strict=True):
            rows = [target, *others]
            cosines = vectors[rows] @ word
            near = (cosines >= cosines.max() - TIE).tolist()
            found.append([gallery.names[row] for row, is_near in zip(rows, near, strict=True) if is_near])
        return found

    def hits(
        self,
        k: int,
        captions: Sequence[str] | Mapping[str, str],
        pictures: Shown,
        n: int = 100,
        seed: int = 0,
        *,
        candidates: pd.DataFrame | str | Path | None = None,
    ) -> Float[np.ndarray, " items"]:
        """Probability that the target of each caption is among its k nearest candidates; ties are broken by chance.

        0 or 1 but for ties: a target that shares the last place within k with others counts by its share of it, so 1/m
        where m candidates are the nearest and k is 1.

        Args:
            k: at least 1 and below the number of candidates.
            captions: a text a picture, in order, or by the picture's name.
            pictures: the targets, and whence the other candidates are drawn.
            n: candidates of a random set: the target and n - 1 other pictures, no two of them copies of each other.
            seed: of the draws; a set depends on it, on the name of its target and on which pictures there are.
            candidates: given sets instead (see `read_candidates` and `hard_candidates`), with a caption a row in order,
                or by item. Copies of the target are masked.

        Raises:
            ConfigError: n above the number of different pictures, or a k that cannot be.
            DataError: not a caption for each, or what `gallery` raises.
        """
        gallery = self.gallery(pictures)
        given = None if candidates is None else read_candidates(candidates)
        texts = _texts_of(captions, gallery.names if given is None else list(given["item"]))
        heard = self._heard(texts, gallery)
        sets = random_sets(gallery, n, seed) if given is None else given_sets(gallery, given)
        least = min((len(others) for _, others in sets), default=n - 1) + 1
        if not 1 <= k < max(least, 2):
            got, expected = f"k={k} of {least} candidates", "at least 1 and fewer than the candidates"
            raise ConfigError(explain(got, expected, "k=1"))
        vectors, credit = gallery.vectors.double(), np.empty(len(sets))
        for row, ((target, others), word) in enumerate(zip(sets, heard, strict=True)):
            mine, theirs = vectors[target] @ word, vectors[others] @ word
            above, equal = int((theirs > mine + TIE).sum()), int(((theirs - mine).abs() <= TIE).sum()) + 1
            credit[row] = min(max(k - above, 0) / equal, 1.0)
        return credit

    def precision_at(
        self,
        k: int,
        captions: Sequence[str] | Mapping[str, str],
        pictures: Shown,
        n: int = 100,
        seed: int = 0,
        *,
        candidates: pd.DataFrame | str | Path | None = None,
    ) -> Interval:
        """Precision at k: how often the target is among the k nearest of its candidates, with a bootstrap interval.

        The mean of `hits`, whose arguments and errors it has. Captions are resampled; candidate sets stay as they are.

        Returns:
            Value, low, high and n, the number of captions.
        """
        found = self.hits(k, captions, pictures, n, seed, candidates=candidates)
        return bootstrap(mean, found, seed=derive(seed, "precision"))

    def _heard(self, captions: Sequence[str], gallery: Gallery) -> Float[Tensor, "captions d"]:
        """Unit embeddings of captions, in float64, of the width of a gallery's."""
        given: Any = captions
        if isinstance(given, pd.Series | np.ndarray):  # a column of a table
            captions = given.tolist()
        if isinstance(captions, str) or not isinstance(captions, Sequence):
            raise DataError(explain(f"captions of type {type(captions).__name__}", "a list of texts"))
        texts = list(captions)
        for row, text in enumerate(texts):
            if not isinstance(cast("Any", text), str):
                raise DataError(explain(f"caption {row} of type {type(text).__name__}", "a text"))
        rows = self.encoder.texts(texts).double()
        if rows.shape[-1] != gallery.vectors.shape[-1]:
            got = f"embeddings of pictures with {gallery.vectors.shape[-1]} numbers each"
            hint = "those of this listener's own encoder"
            raise ShapeError(explain(got, f"{rows.shape[-1]}, as {self.name} has of captions", hint))
        return rows


def pixel_key(image: Image.Image) -> str:
    """Digest of a picture's size and pixels: the same for copies, whatever their names, files and formats."""
    return hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()


def _nearest(cosines: Float[Tensor, "... pictures"]) -> list[int]:
    """Place of the first picture within `TIE` of the nearest, for each row."""
    rows = cosines.reshape(-1, cosines.shape[-1])
    near: Bool[Tensor, "rows pictures"] = rows >= rows.amax(-1, keepdim=True) - TIE
    return [int(place) for place in near.int().argmax(-1)]


def _unit(vectors: Tensor) -> Float[Tensor, "pictures d"]:
    """Given embeddings at length 1, checked."""
    if vectors.ndim != 2 or not len(vectors) or not vectors.is_floating_point():
        got = f"embeddings of shape {tuple(vectors.shape)} and type {vectors.dtype}"
        raise ShapeError(explain(got, "(pictures, d), floating-point numbers, at least one row"))
    plain = vectors.detach().double().cpu()
    lengths = plain.norm(dim=1, keepdim=True)
    wrong = ~(lengths.isfinite() & (lengths > 0))
    if wrong.any():
        row = int(wrong[:, 0].int().argmax())
        got = f"an embedding of length {lengths[row, 0]:g} in row {row} ({int(wrong.sum())} such rows)"
        raise ShapeError(explain(got, "finite embeddings that are not zero"))
    rows: Tensor = (plain / lengths).float()
    return rows


def _texts_of(captions: Sequence[str] | Mapping[str, str], items: Sequence[str]) -> Sequence[str]:
    """A caption for each item, in order."""
    if isinstance(captions, Mapping):
        missing = [item for item in items if item not in captions]
        if missing:
            got = f"no caption of {missing[0]!r} ({len(missing)} such items)"
            raise DataError(explain(got, "a caption for each item", nearest(missing[0], map(str, captions))))
        return [captions[item] for item in items]
    given: Any = captions
    if isinstance(given, pd.Series):
        captions = given.tolist()
    if len(captions) != len(items):
        got, hint = f"{len(captions)} captions of {len(items)} items", "a mapping of names to captions"
        raise DataError(explain(got, "one caption an item, in order", hint))
    return captions


def random_sets(gallery: Gallery, n: int, seed: int) -> list[tuple[int, list[int]]]:
    """Rows of each target and of n - 1 different pictures beside it.

    Raises:
        ConfigError: n above the number of different pictures, or below 2.
    """
    codes = gallery.codes
    first = np.unique(codes, return_index=True)[1]
    if not 2 <= n <= len(first):
        got = f"n={n} candidates of {len(first)} different pictures"
        raise ConfigError(
            explain(got, "at least 2 and at most as many as there are", f"n={max(len(first), 2)}")
        )
    sets = []
    for row, name in enumerate(gallery.names):
        draws = np.random.default_rng(derive(seed, "candidates", name))
        others = np.delete(first, codes[row])
        sets.append((row, draws.choice(others, n - 1, replace=False).tolist()))
    return sets


def given_sets(gallery: Gallery, candidates: pd.DataFrame) -> list[tuple[int, list[int]]]:
    """Rows of each target and of the other candidates, copies of the target left out.

    Raises:
        DataError: a name that no picture has, or a set of a target and its copies alone.
    """
    sets = []
    for names, target in zip(candidates["candidates"], candidates["target"], strict=True):
        rows, (own,) = gallery.places(names), gallery.places([target])
        others = [row for row in rows if gallery.keys[row] != gallery.keys[own]]
        if not others:
            raise DataError(explain(f"a set of {target!r} and its copies", "at least one other picture"))
        sets.append((own, others))
    return sets
