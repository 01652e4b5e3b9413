"""Baselines and controls of experts: similarities without them, and causal effects of holding them.

Similarities by shared words, static and sentence embeddings, random weights or chance stand beside those by experts in
the table of an alignment with ratings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from sklearn.feature_extraction.text import TfidfVectorizer

from trimtab.data.concept import without
from trimtab.data.concepts import ConceptSet
from trimtab.errors import DataError, ModelError, explain
from trimtab.models.batches import evaluating, text_batches
from trimtab.models.families import unwrapped
from trimtab.models.hooks import Intervention, intervene
from trimtab.models.inspection import require_language_model
from trimtab.models.language import joined_rows, next_token_logits
from trimtab.models.load import Model
from trimtab.models.sites import resolve
from trimtab.models.tokenizer import refuse_unknown
from trimtab.models.untrained import untrained
from trimtab.numerics.bootstrap import Interval, bootstrap, check_choice, mean, wilson
from trimtab.numerics.similarity import cosine, jaccard, overlap_by_chance
from trimtab.read.experts.agreement import DIFFERENCES, agree, differences, side
from trimtab.read.experts.detection import Labelling, Selection, detect, q_values
from trimtab.read.experts.lens import ExpertLens, Rivals
from trimtab.read.experts.ratings import Judged
from trimtab.read.responses import Responses
from trimtab.seeds import derive

Matrix = Float[np.ndarray, "c c"]


def shared_words(concepts: ConceptSet) -> Matrix:
    """Cosine of TF-IDF centroids: mean TF-IDF vectors of concepts' positive texts, as bags of words.

    Inverse document frequencies are those of all examples of the set.
    """
    pool = concepts.pool
    rows = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b").fit_transform(pool.examples)
    return cosine(np.stack([np.asarray(rows[p].mean(0))[0] for p in pool.positive]))


def static_embeddings(model: Model, concepts: ConceptSet) -> Matrix | None:
    """Cosine of the input embeddings of concepts' words, each the mean over its tokens; nan for other concepts.

    None for a network that names no table of input embeddings.
    """
    network: Any = unwrapped(model.module)
    weight = getattr(getattr(network, "get_input_embeddings", lambda: None)(), "weight", None)
    if weight is None:
        return None
    table = weight.detach().float().cpu()
    tokenizer = model.need_tokenizer()
    vectors = np.full((len(concepts), table.shape[1]), np.nan)
    for row, concept in zip(vectors, concepts, strict=True):
        ids = tokenizer(concept.word, add_special_tokens=False)["input_ids"] if concept.word else []
        if ids:
            row[:] = table[torch.tensor(ids)].mean(0).numpy()
    return cosine(vectors)


EMBEDDINGS = ("raw", "centred", "standardised")


def sentence_embeddings(lens: ExpertLens) -> dict[str, Matrix]:
    """Cosine of concepts' mean sentence embeddings: raw, centred, standardised; {} where no last block is known.

    A sentence embedding is the mean over valid tokens of what the last block gives. Centring takes the mean over all
    examples away, so that what all sentences share counts no more; standardising also divides by the deviation of each
    coordinate.
    """
    try:
        last = resolve(lens.responses.model, "residual")[-1].name
    except ModelError:
        return {}
    read = replace(lens.responses, sites=[last], pool="mean", progress=None)
    values = np.concatenate([block for _, block in read.blocks()], axis=1).astype(float)
    means = np.stack([values[rows].mean(0) for rows in lens.concepts.pool.positive])
    centred, deviation = means - values.mean(0), values.std(0)
    standardised = np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)
    return {"raw": cosine(means), "centred": cosine(centred), "standardised": cosine(standardised)}


def matched_in_number(lens: ExpertLens, tau: float) -> tuple[Matrix, Matrix]:
    """Size-matched null: Jaccard expected of random sets of the same sizes, and z-scores of the overlaps beyond it.

    The first says what sizes alone give; the second is what experts share beside it. Pairs with an empty set are 0.
    """
    overlaps = overlap_by_chance(lens.sets(tau=tau))
    sizes = np.diag(overlaps.shared)
    union = sizes[:, None] + sizes[None] - overlaps.expected
    by_size = np.divide(overlaps.expected, union, out=np.zeros_like(union), where=union > 0)
    return by_size, np.nan_to_num(overlaps.z)


def random_concepts(concepts: ConceptSet, seed: int) -> list[Labelling]:
    """Random concepts: for each as many positive examples, drawn from all, and negative ones in one order for all."""
    pool, drawn = concepts.pool, []
    rest = np.random.default_rng(derive(seed, "random negatives")).permutation(len(pool.examples))
    for name, positive, negative in zip(concepts.names, pool.positive, pool.negative, strict=True):
        rng = np.random.default_rng(derive(seed, "random concept", name))
        chosen = rng.choice(len(pool.examples), len(positive), replace=False)
        drawn.append(Labelling(chosen, rest[~np.isin(rest, chosen)][: len(negative)]))
    return drawn


def permuted(labellings: list[Labelling], seed: int, times: int = 1) -> list[Labelling]:
    """Permuted labels: positives and negatives of each concept dealt out anew, so that every expert is false."""
    dealt = []
    for number in range(times * len(labellings)):
        labelling = labellings[number % len(labellings)]
        rows = np.random.default_rng(derive(seed, "permuted", number)).permutation(labelling.rows)
        dealt.append(Labelling(rows[: len(labelling.positive)], rows[len(labelling.positive) :]))
    return dealt


def masked(concepts: ConceptSet, stand_in: str) -> tuple[list[str], list[Labelling]]:
    """Masking: every example with the words that it was chosen for replaced by a stand-in, and labellings of those.

    In a negative example, which is a positive one of other concepts, their words are replaced, so that the stand-in
    marks no side. Examples that are positive of no concept keep all their words. Examples that differed in such a word
    alone become one, which may then be positive and negative: no unit can tell such concepts apart.
    """
    pool = concepts.pool
    words: dict[int, set[str]] = {}
    for concept, rows in zip(concepts, pool.positive, strict=True):
        for row in rows.tolist():
            words.setdefault(row, set()).add(concept.word or "")
    texts = [str(text) for text in pool.examples]
    for row, row_words in words.items():
        for word in sorted(row_words - {""}, key=len, reverse=True):
            texts[row] = without(texts[row], word, stand_in)
    place = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    now = np.array([place[text] for text in texts])
    dealt = [Labelling(now[p], now[n]) for p, n in zip(pool.positive, pool.negative, strict=True)]
    return list(place), dealt


Tell = Callable[[str], None]
N_PERM, N_BOOT = 1999, 1000
EXPERTS, BASELINE, CONTROL = "experts", "baseline", "control"


@dataclass(frozen=True)
class Row:
    """One row of the alignment table: a similarity of concepts with its name and role.

    Attributes:
        name: of the way.
        role: what it is in the table: experts, a baseline, or a control.
        similarity: (concepts, concepts); None where it cannot be had.
        halves: the same from each half of the examples; None where a ceiling means nothing.
        note: why it cannot be had, or what to know.
    """

    name: str
    role: str
    similarity: np.ndarray | None
    halves: Sequence[np.ndarray] | None = None
    note: str = ""


def rows(lens: ExpertLens, tau: float, top: int, tell: Tell = lambda _: None) -> Iterator[Row]:
    """Rows of the alignment table, experts first.

    Args:
        lens: fitted.
        tau: threshold of average precision for experts.
        top: number of experts in the rows that have a fixed one.
        tell: called with what is being done.
    """
    ways: dict[str, dict[str, Any]] = {
        f"experts with AP above {tau:g}, Jaccard": {"kind": "jaccard", "tau": tau},
        f"{top} best experts, Jaccard": {"kind": "jaccard", "top": top},
        f"experts with AP above {tau:g}, over the smaller set": {"kind": "overlap", "tau": tau},
        "AP of all units, cosine": {"kind": "ap_cosine"},
        "AP of all units, Spearman": {"kind": "ap_spearman"},
    }
    parts = (lens, *lens.halves) if lens.can_be_halved else (lens,)
    for name, how in ways.items():
        matrix, *halves = (part.similarity(**how).to_numpy() for part in parts)
        yield Row(name, EXPERTS, matrix, halves or None)
    by_size, beyond_size = matched_in_number(lens, tau)
    yield Row(f"experts with AP above {tau:g}, beyond their numbers (z)", EXPERTS, beyond_size)
    tell("baselines")
    yield from _baseline_rows(lens)
    yield from _control_rows(lens, tau, tell)
    yield Row("random sets of the same sizes", CONTROL, by_size)


@dataclass(frozen=True)
class Alignment:
    """Alignment of every similarity with every set of ratings, and paired differences of experts from baselines.

    Attributes:
        table: columns row, role, ratings, rho, low, high, mantel_p, n_pairs, n_concepts, ceiling, rho_over_ceiling,
            note, source (whose the ratings are), and how much higher the rho of the first row, the experts that the
            settings name, is than that of this row: difference, difference_low, difference_high, told (see
            `trimtab.read.experts.agreement.side`).
        differences: of every row of experts with every baseline: columns ratings, row, against, difference, low, high,
            told, n_concepts; intervals are paired, over concepts.
    """

    table: pd.DataFrame
    differences: pd.DataFrame


def alignment(
    table: list[Row], lens: ExpertLens, ratings: Mapping[str, Judged], reliability: Mapping[str, float]
) -> Alignment:
    """Alignment table: agreement of every row with every set of ratings; rows of one set share draws of concepts."""
    agreements = {}
    for row, (name, judged) in product(table, ratings.items()):
        if row.similarity is not None:
            halves = None if row.halves is None else [lens.framed(half) for half in row.halves]
            settings = {"n_perm": N_PERM, "n_boot": N_BOOT, "seed": lens.seed}
            stated = reliability.get(name)
            similarity = lens.framed(row.similarity)
            agreements[name, row.name] = agree(similarity, judged, halves, reliability=stated, **settings)
    lines, gaps = [], []
    for row, (name, judged) in product(table, ratings.items()):
        line: dict[str, object] = {"row": row.name, "role": row.role, "ratings": name, "note": row.note}
        line["source"] = judged.source
        if (it := agreements.get((name, row.name))) is not None:
            line |= {column: getattr(it, column) for column in _MEASURED}
            line |= {"low": it.interval.low, "high": it.interval.high}
            first = agreements.get((name, table[0].name))
            if first is not None and row is not table[0]:
                gap = first.minus(it)
                line |= {"difference": gap.value, "difference_low": gap.low, "difference_high": gap.high}
                line |= {"told": side(gap)}
        lines.append(line)
    for name in ratings:
        rivals = {row.name: agreements.get((name, row.name)) for row in table if row.role == BASELINE}
        measured = {rival: it for rival, it in rivals.items() if it is not None}
        for row in table:
            if row.role == EXPERTS and (it := agreements.get((name, row.name))) is not None:
                gaps.append(differences({row.name: it, **measured}, row.name).assign(ratings=name))
    between = pd.concat(gaps, ignore_index=True) if gaps else pd.DataFrame()
    return Alignment(pd.DataFrame(lines, columns=COLUMNS), between.reindex(columns=["ratings", *DIFFERENCES]))


_MEASURED = ("rho", "mantel_p", "n_pairs", "n_concepts", "ceiling", "rho_over_ceiling")
COLUMNS = [
    "row", "role", "ratings", "rho", "low", "high", "mantel_p", "n_pairs", "n_concepts", "ceiling",
    "rho_over_ceiling", "note", "source", "difference", "difference_low", "difference_high", "told",
]  # fmt: skip


def false_discoveries(lens: ExpertLens, fdr: float, times: int = 1) -> Interval:
    """False-positive rate under permuted labels: the share of such concepts with any expert, with Wilson's interval.

    Under a rate that is kept it is at most that rate, since all experts of such a concept are false.
    """
    dealt = permuted(lens.labellings, lens.seed, times)
    chance = detect(lens.responses, dealt, chance=True, seed=lens.seed).chance
    return wilson(int((q_values(chance) <= fdr).any(-1).sum()), len(dealt))


def _baseline_rows(lens: ExpertLens) -> Iterator[Row]:
    concepts, model = lens.concepts, lens.responses.model
    lexical, static, no_words = None, None, "pictures have no words"
    note = no_words
    if concepts.textual:
        lexical, no_words, note = shared_words(concepts), "", "concepts are no words"
        if all(concept.word for concept in concepts):
            static = static_embeddings(model, concepts)
            note = "" if static is not None else "the model has no table of input embeddings"
    yield Row("shared words (TF-IDF centroids)", BASELINE, lexical, note=no_words)
    yield Row("static input embeddings", BASELINE, static, note=note)
    means = sentence_embeddings(lens)
    unknown = "" if means else "a family whose last block we do not know"
    for kind in EMBEDDINGS:
        name = f"mean sentence embedding, {kind}" if concepts.textual else f"mean embedding, {kind}"
        yield Row(name, BASELINE, means.get(kind), note=unknown)


def _control_rows(lens: ExpertLens, tau: float, tell: Tell) -> Iterator[Row]:
    responses, chosen = lens.responses, Selection(tau=tau)

    def overlaps(read: Responses, dealt: list[Labelling]) -> Matrix:
        return jaccard(chosen.of(detect(read, dealt).precision))

    tell("control: random weights")
    plain = untrained(responses.model, lens.seed)
    matrix = overlaps(replace(responses, model=plain), lens.labellings) if plain else None
    note = "" if plain else "no configuration to build from"
    yield Row("random weights, experts", CONTROL, matrix, note=note)
    tell("control: random concepts")
    drawn = random_concepts(lens.concepts, lens.seed)
    yield Row("random sentences, experts", CONTROL, overlaps(responses, drawn))
    tell("control: masked words")
    matrix, note = None, "no word to mask"
    if lens.concepts.textual and any(concept.word for concept in lens.concepts):
        tokenizer = responses.model.need_tokenizer()
        stand_in = str(tokenizer.mask_token or tokenizer.unk_token or "...")
        texts, dealt = masked(lens.concepts, stand_in)
        matrix, note = overlaps(replace(responses, examples=texts), dealt), ""
    yield Row("concept word masked, experts", CONTROL, matrix, note=note)


Way = Literal["silence", "force"]
RIVALS: tuple[Rivals, ...] = get_args(Rivals)


def word_nats(
    model: Model,
    texts: Sequence[str],
    words: Sequence[str],
    interventions: Mapping[str, Intervention] | None = None,
    *,
    batch_size: int = 16,
) -> Float[np.ndarray, " n"]:
    """Log probability of a concept's words as the next word, in nats: the log of its mean over the places of a text.

    A word counts with its first token, as it is written after a space; the probability of several words is their sum.

    Args:
        model: a causal language model with a tokenizer.
        texts: at least one token each.
        words: at least one.
        interventions: in place meanwhile; None for none.
        batch_size: texts at a time.

    Returns:
        One value per text, in nats, at most 0.

    Raises:
        ModelError: not a causal language model.
        DataError: no word.
    """
    require_language_model(model)
    tokenizer, ids = model.need_tokenizer(), set()
    for word in words:
        if not tokenizer(f" {word}", add_special_tokens=False)["input_ids"]:
            raise DataError(explain(f"the word {word!r}, which has no token", "at least one token"))
        (row,), (start,) = joined_rows(
            tokenizer, ["a"], [f" {word}"]
        )  # in a text, as tokens may have no space
        refuse_unknown(model.module, tokenizer, [[row[start]]], f"the word {word!r}, token")
        ids.add(row[start])
    if not ids:
        raise DataError(explain("no word", "at least one"))
    nats = []
    with evaluating(model.module):
        for batch in text_batches(model, texts, batch_size=batch_size):
            with intervene(model, interventions) if interventions else nullcontext():
                logits = next_token_logits(model.module, batch).double()
            likely = logits.softmax(-1)[..., sorted(ids)].sum(-1)
            nats.append(((likely * batch.mask).sum(1) / batch.mask.sum(1)).log())
    return torch.cat(nats).cpu().numpy()


def causal_check(
    lens: ExpertLens,
    texts: Sequence[str],
    words: Mapping[str, Sequence[str]],
    *,
    way: Way = "silence",
    top: int = 50,
    seed: int = 0,
) -> pd.DataFrame:
    """Causal effect of experts: change in log probability of each concept's words when its experts or others are held.

    Args:
        lens: fitted on a causal language model.
        texts: none of those that the lens was fitted with; the same for all concepts.
        words: concept -> words whose probability is looked at.
        way: "silence" or "force".
        top: how many units.
        seed: of random units, which differ by concept.

    Returns:
        One row per concept: concept, then for experts, random and matched units the mean change over texts, in nats.

    Raises:
        DataError: an unknown concept or no word.
        ConfigError: an unknown way, or more units than there are.
        ModelError: not a causal language model.
    """
    check_choice("way", way, get_args(Way))
    hold: Callable[..., dict[str, Intervention]] = lens.silence if way == "silence" else lens.force
    model, rows = lens.responses.model, []
    for concept, concept_words in words.items():
        before = word_nats(model, texts, concept_words)
        row: dict[str, object] = {"concept": concept}
        for units in RIVALS:
            held = hold(concept, top, units=units, seed=derive(seed, "rivals", concept))
            row[units] = float((word_nats(model, texts, concept_words, held) - before).mean())
        rows.append(row)
    return pd.DataFrame(rows)


def contrasts(changes: pd.DataFrame, seed: int = 0) -> dict[str, Interval]:
    """Mean causal effects over concepts, and those of experts minus those of other units, with bootstrap intervals.

    Args:
        changes: of `causal_check`.
        seed: of the bootstrap over concepts.

    Returns:
        experts, random, matched, experts - random, experts - matched.
    """
    values: dict[str, np.ndarray] = {units: changes[units].to_numpy(dtype=float) for units in RIVALS}
    for units in ("random", "matched"):
        values[f"experts - {units}"] = values["experts"] - values[units]
    return {name: bootstrap(mean, value, seed=seed) for name, value in values.items()}
