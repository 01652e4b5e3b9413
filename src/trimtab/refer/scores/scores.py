"""Caption scores without Java: BLEU, ROUGE-L, CIDEr, CIDEr-D, METEOR by words and stems, CLIPScore, RefCLIPScore.

Each has a signature that names its tokeniser and its settings: two scores can be compared if their signatures agree.
All are times 100, as papers print them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from jaxtyping import Float

from trimtab.data.captions import CaptionSource, reference_texts, speaker_captions
from trimtab.data.captions import references as read_references
from trimtab.errors import ConfigError, DataError, explain, nearest
from trimtab.numerics.bootstrap import check_numbers
from trimtab.numerics.cluster_bootstrap import bootstrap_totals, units_of
from trimtab.refer.scores.alignment import (
    ALPHA,
    BETA,
    GAMMA,
    ROUGE_BETA,
    STEM,
    best_alignment,
    meteor,
    rouge_l,
)
from trimtab.refer.scores.ngrams import LONGEST, SIGMA, Tokens, bleu, bleu_statistics, cider
from trimtab.refer.scores.tokenisers import Tokeniser
from trimtab.refer.scores.tokenisers import tokeniser as tokeniser_of
from trimtab.seeds import seed_problem

VERSION = 1
"""Raised whenever a score of the same tokens comes to another number."""
CLIP_WEIGHT = 2.5
"""The factor by which CLIPScore stretches cosines."""
METEOR = "METEOR (exact, stem)"
_BLEU = tuple(f"BLEU-{n}" for n in range(1, LONGEST + 1))
_MOST = {
    "CIDEr": 10.0,
    "CIDEr-D": 10.0,
    "CLIPScore": CLIP_WEIGHT,
    "RefCLIPScore": 2 * CLIP_WEIGHT / (1 + CLIP_WEIGHT),
}
"""What scores reach at most, where it is not 1."""
_AT_ONCE = 64


class Hearing(Protocol):
    """What CLIPScore needs of a `Listener`: embedded pictures, cosines, and a text encoder."""

    @property
    def name(self) -> str:
        """The name of its model."""

    @property
    def encoder(self) -> Any:
        """Its two towers; `texts(captions)` gives unit rows."""

    def gallery(self, pictures: Any) -> Any:
        """Pictures embedded, with `vectors` and `places(names)`."""

    def similarity(self, captions: Sequence[str], pictures: Any) -> Any:
        """Cosines (captions, pictures)."""


@dataclass(frozen=True)
class Scored:
    """Candidates with their references, item by item.

    Attributes:
        items: names of the items; numbers from 0 where the candidates are a list.
        candidates: one caption of each, which may be empty.
        references: at least one of each.
        named: whether items have names, by which their pictures are found.
    """

    items: tuple[str, ...]
    candidates: tuple[str, ...]
    references: tuple[tuple[str, ...], ...]
    named: bool


def caption_scores(
    candidates: CaptionSource,
    references: CaptionSource,
    listener: Hearing | None = None,
    pictures: Any = None,
    *,
    corpus: CaptionSource | None = None,
    tokeniser: str | Tokeniser = "ptb",
    prompt: str = "",
    n_boot: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Caption scores of a speaker against references, with intervals and signatures.

    | score | what | of identical captions |
    |---|---|---|
    | BLEU-1 to BLEU-4 | precision of n-grams of all captions, less if they are short (Papineni et al. 2002) | 100 |
    | ROUGE-L | longest common subsequence (Lin 2004) | 100 |
    | CIDEr, CIDEr-D | similarity by rare n-grams (Vedantam et al. 2015) | 1000 |
    | METEOR (exact, stem) | aligned words, without synonyms and paraphrases (Denkowski and Lavie 2014) | 100 |
    | CLIPScore | 2.5 max(cosine with the picture, 0) (Hessel et al. 2021) | - |
    | RefCLIPScore | harmonic mean of CLIPScore and the best cosine with a reference, at least 0 | - |

    Captions of fewer than four words have no 4-grams, and reach less than 1000 of CIDEr.

    Args:
        candidates: one caption of each item, as `trimtab.data.captions.speaker_captions` takes them, or a list of
            texts. An empty caption is scored, as a model may say nothing.
        references: of each item, as `trimtab.data.captions.references` takes them, or a list of lists. Those of other
            items are not used.
        listener: for CLIPScore and RefCLIPScore, which go by its pictures.
        pictures: of the items by name, or in the order of a list of candidates.
        corpus: references from which CIDEr's document frequencies are counted; None for those of these items.
        tokeniser: "ptb", "words" or one of your own.
        prompt: put before every text that the listener hears; the paper's is "A photo depicts ".
        n_boot: resamples of items.
        confidence: of the intervals, in (0, 1).
        seed: the same seed gives the same intervals.

    Returns:
        A row per score: score, value, low, high, n (items) and signature. Intervals are percentile bootstrap intervals
        over items, with CIDEr's document frequencies kept as they are. Of one item they are nan, and so is CIDEr
        without `corpus`; BLEU-n is nan where no candidate has n tokens.

    Raises:
        DataError: an item without references, or what the readers of captions refuse.
        ConfigError: a tokeniser that is none, only one of listener and pictures, or settings out of range.

    >>> told = ["a red cat sits here", "two dogs run in snow"]
    >>> scores = caption_scores(told, [[one] for one in told]).set_index("score")
    >>> float(scores.value["BLEU-4"]), round(float(scores.value["CIDEr-D"]), 6)
    (100.0, 1000.0)
    """
    check_numbers("n_boot", n_boot, confidence)
    if (problem := seed_problem("seed", seed)) is not None:
        raise ConfigError(str(problem))
    _check_listener(listener, pictures)
    split = tokeniser_of(tokeniser)
    scored = paired(candidates, references)
    told = _Measured.of(scored, split, _corpus(corpus))
    means, signatures = told.means(), told.signatures(scored, split, corpus is not None)
    if listener is not None:
        heard = _heard(scored, listener, pictures, prompt)
        means |= heard
        signatures |= dict.fromkeys(
            heard, f"listener:{listener.name}|prompt:{prompt.strip() or 'none'}|w:{CLIP_WEIGHT}"
        )
    known = [name for name, values in means.items() if not np.isnan(values).any()]
    rows = np.column_stack(
        [told.bleu, told.meteor, *(means[name] for name in known), np.ones(len(scored.items))]
    )

    def values_of(totals: Float[np.ndarray, "*lines 1 values"]) -> Float[np.ndarray, "*lines m"]:
        """All scores, in [0, 1] or [0, 10], from the sums over items."""
        sums = totals[..., 0, :]
        ends = np.cumsum([told.bleu.shape[1], told.meteor.shape[1], len(known)])
        parts = np.split(sums, ends, axis=-1)
        return np.concatenate([bleu(parts[0]), meteor(parts[1])[..., None], parts[2] / parts[3]], axis=-1)

    units = units_of(rows, np.zeros(len(rows), dtype=int), 1)
    found = bootstrap_totals(values_of, units, n_boot=n_boot, confidence=confidence, seed=seed)
    names = (*_BLEU, METEOR, *known)
    # Intervals of few items are widened, and would leave the range.
    most = np.array([_MOST.get(name, 1.0) for name in names])
    ends = np.stack([found.values, np.maximum(found.low, 0.0), np.minimum(found.high, most)], axis=1) * 100.0
    by_name = dict(zip(names, ends.tolist(), strict=True))
    unknown = [float("nan")] * 3
    table = [
        (name, *by_name.get(name, unknown), found.n, f"{signature}|scale:100|impl:trimtab.{VERSION}")
        for name, signature in signatures.items()
    ]
    return pd.DataFrame(table, columns=["score", "value", "low", "high", "n", "signature"])


def item_scores(
    candidates: CaptionSource,
    references: CaptionSource,
    listener: Hearing | None = None,
    pictures: Any = None,
    *,
    corpus: CaptionSource | None = None,
    tokeniser: str | Tokeniser = "ptb",
    prompt: str = "",
) -> pd.DataFrame:
    """Caption scores of each item, for comparisons in pairs; the arguments are those of `caption_scores`.

    BLEU is a score of a corpus and is not among them. METEOR is that of each caption; a corpus's is no mean of it.

    Returns:
        A row per item, named by it, and a column per score, times 100.

    Raises:
        DataError: as `caption_scores`.
        ConfigError: as `caption_scores`.

    >>> item_scores(["a cat"], [["a cat", "a tabby"]])["ROUGE-L"].tolist()
    [100.0]
    """
    _check_listener(listener, pictures)
    split = tokeniser_of(tokeniser)
    scored = paired(candidates, references)
    told = _Measured.of(scored, split, _corpus(corpus))
    columns = told.means() | {METEOR: meteor(told.meteor)}
    if listener is not None:
        columns |= _heard(scored, listener, pictures, prompt)
    return pd.DataFrame(columns, index=pd.Index(scored.items, name="item")) * 100.0


def paired(candidates: CaptionSource, references: CaptionSource) -> Scored:
    """Candidates and references item by item, by name, or by order where the candidates are a list of texts.

    Raises:
        DataError: an item without references, lists of two lengths, or what the readers of captions refuse.

    >>> paired({"b": "x"}, {"a": ["z"], "b": ["y", "w"]}).references
    (('y', 'w'),)
    """
    listed = _in_order(candidates)
    if listed is not None:
        return _by_order(listed, _in_order(references))
    frame = speaker_captions(candidates, "candidates", empty=True)
    told, items = read_references(references), frame["item"].tolist()
    if missing := [item for item in items if item not in told]:
        got = f"{len(missing)} of {len(items)} candidates without references, such as of item {missing[0]!r}"
        raise DataError(explain(got, "references of each item", nearest(missing[0], told)))
    return Scored(tuple(items), tuple(frame["caption"]), tuple(tuple(told[item]) for item in items), True)


def _in_order(source: CaptionSource) -> list[Any] | None:
    """The captions of a list, which go by their order; None for rows and what else has items."""
    listed = source.tolist() if isinstance(source, pd.Series | np.ndarray) else source
    if not isinstance(listed, Sequence) or isinstance(listed, str | bytes | Path):
        return None
    return None if listed and isinstance(listed[0], Mapping) else list(listed)


def _by_order(candidates: list[Any], references: list[Any] | None) -> Scored:
    """Candidates of a list with the references in the same place of another one."""
    if references is None:
        got = "a list of candidates and references that are no list"
        raise DataError(explain(got, "lists of both, or items in both", "{item: caption}"))
    if len(candidates) != len(references):
        got = f"{len(candidates)} candidates and references of {len(references)} items"
        raise DataError(explain(got, "as many of both", "{item: caption} for each"))
    frame = speaker_captions(dict(enumerate(candidates)), "candidates", empty=True)
    told = [tuple(reference_texts(one, f"references, item {k}")) for k, one in enumerate(references)]
    return Scored(tuple(frame["item"]), tuple(frame["caption"]), tuple(told), False)


@dataclass(frozen=True)
class _Measured:
    """What each item adds to the scores that go by tokens."""

    bleu: Float[np.ndarray, "items 2*longest+2"]
    meteor: Float[np.ndarray, "items 5"]
    rouge: Float[np.ndarray, " items"]
    cider: Float[np.ndarray, "items 2"]
    documents: int

    @classmethod
    def of(cls, scored: Scored, split: Tokeniser, corpus: Sequence[Sequence[str]] | None) -> _Measured:
        ours = [split.split(one) for one in scored.candidates]
        theirs = _split(scored.references, split)
        aligned = [best_alignment(one, several).statistics for one, several in zip(ours, theirs, strict=True)]
        rouge = [rouge_l(one, several) for one, several in zip(ours, theirs, strict=True)]
        known = None if corpus is None else _split(corpus, split)
        return cls(
            bleu_statistics(ours, theirs),
            np.array(aligned),
            np.array(rouge),
            cider(ours, theirs, known),
            len(theirs if known is None else known),
        )

    def means(self) -> dict[str, Float[np.ndarray, " items"]]:
        """The values of each item of the scores that are means over items."""
        return {"ROUGE-L": self.rouge, "CIDEr": self.cider[:, 0], "CIDEr-D": self.cider[:, 1]}

    def signatures(self, scored: Scored, split: Tokeniser, given: bool) -> dict[str, str]:
        """The signature of each score, in the order of the table."""
        counts = sorted({len(each) for each in scored.references})
        refs = f"{counts[0]}-{counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
        head = f"tok:{split.signature}|refs:{refs}"
        idf = f"idf:{'corpus' if given else 'references'}|docs:{self.documents}|stem:no"
        stages = f"stages:exact,stem|stemmer:porter2|weights:1,{STEM}|alpha:{ALPHA}|beta:{BETA}|gamma:{GAMMA}"
        return {
            **dict.fromkeys(_BLEU, f"{head}|length:closest|smooth:none"),
            "ROUGE-L": f"{head}|beta:{ROUGE_BETA}",
            "CIDEr": f"{head}|{idf}",
            "CIDEr-D": f"{head}|{idf}|sigma:{SIGMA:g}",
            METEOR: f"{head}|{stages}",
        }


def _split(several: Sequence[Sequence[str]], split: Tokeniser) -> list[list[Tokens]]:
    return [[split.split(one) for one in each] for each in several]


def _corpus(corpus: CaptionSource | None) -> list[list[str]] | None:
    if corpus is None:
        return None
    listed = _in_order(corpus)
    if listed is None:
        return list(read_references(corpus, "corpus").values())
    return [reference_texts(one, f"corpus, item {k}") for k, one in enumerate(listed)]


def _check_listener(listener: Hearing | None, pictures: Any) -> None:
    if (listener is None) != (pictures is None):
        got = "pictures without a listener" if listener is None else "a listener without pictures"
        raise ConfigError(
            explain(got, "both for CLIPScore, or neither", "caption_scores(..., listener=, pictures=)")
        )


def _heard(
    scored: Scored, listener: Hearing, pictures: Any, prompt: str
) -> dict[str, Float[np.ndarray, " items"]]:
    """CLIPScore and RefCLIPScore of each item.

    Source: Hessel et al. 2021, "CLIPScore: a reference-free evaluation metric for image captioning", section 3.
    """
    gallery = listener.gallery(pictures)
    if scored.named:
        places = gallery.places(scored.items)
    elif len(gallery.vectors) == len(scored.items):
        places = list(range(len(scored.items)))
    else:
        got = f"{len(gallery.vectors)} pictures and {len(scored.items)} candidates"
        raise DataError(explain(got, "as many of both", "candidates as {name of the picture: caption}"))
    seen, told = [], []
    for start in range(0, len(places), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        captions = [f"{prompt}{one}" for one in scored.candidates[part]]
        cosines = listener.similarity(captions, gallery.vectors[places[part]])
        seen += np.asarray(cosines, dtype=float).diagonal().tolist()
        references = scored.references[part]
        flat = [f"{prompt}{one}" for each in references for one in each]
        cosines = np.asarray(listener.similarity(captions, listener.encoder.texts(flat)), dtype=float)
        ends = np.cumsum([0, *map(len, references)])
        told += [float(row[ends[k] : ends[k + 1]].max()) for k, row in enumerate(cosines)]
    clip, nearest_one = CLIP_WEIGHT * np.maximum(seen, 0.0), np.maximum(told, 0.0)
    both = clip + nearest_one
    mean = np.divide(2 * clip * nearest_one, both, out=np.zeros_like(both), where=both > 0)
    return {"CLIPScore": clip, "RefCLIPScore": mean}
