"""Benchmark of HyperTransport on a language model of the grammar world: composed concepts, two encoders, three seeds.

    python benchmarks/hypertransport/language.py [--seeds 0 1 2]    writes results/hypertransport/language.json

A concept is a noun and a modifier that documents repeat: with chance one half each place of a noun holds the noun,
and each place of a modifier the modifier. Composed of 70 nouns and 16 modifiers, some of which, and some of whose
compositions, no training concept has. A seed is a language model of its own, with other documents and words held out.
No prompt can ask this model for a concept, so that prompting is not measured. A result of no effect is a result.
Each fit has checkpoints and each concept is a file in `runs/benchmark-hypertransport`. `--smoke` shows that all runs.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from claims import MARGIN, above, not_worse
from gather import DIGITS, RESULTS
from kept import kept, kept_steering
from measures import FULL, STRENGTHS
from methods import HYPER, LINACT, LINEAS, MEAN, NEAREST, RIDGE, UNSTEERED, repr_of
from plan import took
from torch import Tensor

from trimtab import HyperTransport, LinAcT, LinEAS, Model, Steering, load
from trimtab.lab.grammar import NOUN, SLOT, Grammar, World
from trimtab.lab.grammar_model import grammar_model
from trimtab.lab.registry import ENCODER, model
from trimtab.models.language import kl
from trimtab.runs.atomic import write_atomic
from trimtab.runs.environment import hardware
from trimtab.runs.serialise import plain, to_json
from trimtab.seeds import derive
from trimtab.steer.hypertransport.concept_file import TRAIN
from trimtab.steer.hypertransport.conditions import SELF
from trimtab.steer.hypertransport.fitted import FittedHyperTransport
from trimtab.steer.hypertransport.measuring import within_budget
from trimtab.steer.hypertransport.rivals import ConceptMaps

sys.path.append(str(Path(__file__).parents[1]))
from verdicts import mean_interval

RUNS = Path("runs/benchmark-hypertransport")
SITES = "*_layernorm"
ENCODERS = (SELF, "sentences")
WORDS, COMBINATIONS = "held words", "held combinations"
HELD_NOUNS, HELD_MODIFIERS, REPEATED = 8, 2, 0.5
BUDGET_NATS = 0.02
"""KL from the untouched model, per place that is no noun's or modifier's, where methods are compared."""
Concept = tuple[str, str]
"""A noun and a modifier."""


@dataclass(frozen=True)
class Size:
    """How much is done: training concepts, documents of each, measured concepts, documents measured on, steps."""

    train: int = 512
    documents: int = 32
    held_out: int = 48
    judged: int = 64
    steps: int = 2000
    lineas: int = 90


FULL_SIZE, SMOKE = Size(), Size(12, 8, 2, 8, 3, 2)


@dataclass(frozen=True, eq=False)
class Language:
    """A language model of the grammar world, concepts and documents of one seed."""

    seed: int
    size: Size
    folder: Path

    @cached_property
    def world(self) -> World:
        """The grammar world."""
        return World(Grammar())

    @cached_property
    def model(self) -> Model:
        """The model, trained on first use."""
        return load(str(grammar_model(self.seed)), device="cpu")

    @property
    def name(self) -> list[Any]:
        """What makes it this one, for questions."""
        return [Path(self.model.name).name, self.size, self.seed]

    @cached_property
    def concepts(self) -> dict[str, list[Concept]]:
        """Training concepts, held-out words (at least one of both is new) and held-out combinations."""
        lexicon = self.world.lexicon
        nouns = [noun for topic in lexicon.nouns[1:] for noun in topic]  # the first topic's are insults too
        rng = np.random.default_rng(derive(self.seed, "concepts"))
        new = {
            *rng.choice(nouns, HELD_NOUNS, False),
            *rng.choice(lexicon.modifiers, HELD_MODIFIERS, False),
        }
        pairs = list(product(nouns, lexicon.modifiers))
        order = [pairs[place] for place in rng.permutation(len(pairs))]
        words = [pair for pair in order if new & set(pair)]
        known = [pair for pair in order if not new & set(pair)]
        train, rest = known[: self.size.train], known[self.size.train :]
        half = self.size.held_out // 2
        return {TRAIN: train, WORDS: words[:half], COMBINATIONS: rest[:half]}

    def documents(self, n: int, purpose: str, concept: Concept | None = None) -> Tensor:
        """Clean documents, in which a concept's words are repeated."""
        draws = torch.Generator().manual_seed(derive(self.seed, "language", purpose, *(concept or ())))
        ids = self.world.sample(n, generator=draws, style="clean").ids
        for word, kind in zip(concept or (), (NOUN, SLOT), strict=False):
            places = (self.world.kinds(ids.shape[1]) == kind) & (
                torch.rand(ids.shape, generator=draws) < REPEATED
            )
            ids = torch.where(places, self.world.lexicon.number[word], ids)
        return ids

    def texts(self, purpose: str, concept: Concept | None = None) -> list[str]:
        """Documents as texts."""
        return self.world.text(self.documents(self.size.documents, purpose, concept))

    @cached_property
    def judged(self) -> Tensor:
        """Documents that nothing is fitted to."""
        return self.documents(self.size.judged, "judged")

    @cached_property
    def before(self) -> Tensor:
        """Log-probabilities of the untouched model on them."""
        return self.logits()

    def logits(self) -> Tensor:
        """Logits of the next token, under whatever interventions are in place."""
        with torch.no_grad():
            return torch.cat([self.model.module(input_ids=part).logits for part in self.judged.split(32)])

    def point(self, concept: Concept, strength: float) -> dict[str, float]:
        """Mean probability of the concept's words where they may stand, and KL from the untouched model elsewhere."""
        now, kinds = self.logits(), self.world.kinds(self.judged.shape[1] + 1)[1:]
        probs, told = now.double().softmax(-1), []
        for word, kind in zip(concept, (NOUN, SLOT), strict=True):
            told.append(float(probs[:, kinds == kind, self.world.lexicon.number[word]].mean()))
        elsewhere = (kinds != NOUN) & (kinds != SLOT)
        moved = kl(self.before[:, elsewhere], now[:, elsewhere]).mean()
        return {
            "strength": strength,
            "concept": float(np.mean(told)),
            "noun": told[0],
            "modifier": told[1],
            "kl": float(moved),
        }

    def curve(self, concept: Concept, steering: Steering) -> list[dict[str, float]]:
        """Points over strengths."""
        found = []
        for strength in STRENGTHS:
            with (steering * max(strength, FULL)).on(self.model, min(strength, FULL)):
                found.append(self.point(concept, strength))
        return found

    def network(self, encoder: str) -> FittedHyperTransport:
        """The hypernetwork with one of the encoders."""
        estimator = HyperTransport(
            sites=SITES,
            encoder=SELF if encoder == SELF else str(model(ENCODER)),
            steps=self.size.steps,
            seed=derive(self.seed, "hyper"),
        )
        concepts = {" ".join(pair): self.texts("fit", pair) for pair in self.concepts[TRAIN]}
        source, out = self.texts("source"), self.folder / f"fit-{encoder}"
        if encoder != SELF:  # names are no words of the world in order; sentences read any
            return estimator.fit(self.model, concepts, source, out=out)
        return replace(estimator, with_names=False).fit(self.model, concepts, source, out=out)

    def fitted(self, estimator: Any, concept: Concept) -> Steering:
        """A steering fitted to a concept, kept."""
        question = [self.name, concept, repr_of(estimator)]
        kind = type(estimator).__name__
        make = lambda: estimator.fit(self.model, self.texts("source"), self.texts("fit", concept))  # noqa: E731
        return kept_steering(self.folder / "steerings", kind, question, make)[0]


def methods(language: Language) -> dict[str, Any]:
    """Each method by name, from a concept to a steering."""
    linact, lineas = _linact(), _lineas(language.size)
    train = language.concepts[TRAIN]
    steerings = tuple(language.fitted(linact, pair) for pair in train)
    found: dict[str, Any] = {}
    for encoder in ENCODERS:
        network = language.network(encoder)
        known = ConceptMaps(network.concepts, network.embeddings, steerings)
        middle, ridge = known.mean(), known.ridge()
        told = lambda pair, network=network: network.embedding(language.texts("fit", pair))  # noqa: E731
        found |= {
            f"{HYPER}, {encoder}": lambda pair, network=network: network(language.texts("fit", pair)),
            f"{RIDGE}, {encoder}": lambda pair, told=told, ridge=ridge: ridge(told(pair)),
            f"{NEAREST}, {encoder}": lambda pair, told=told, known=known: known.nearest(told(pair)),
            MEAN: lambda pair, middle=middle: middle,  # noqa: ARG005
        }
    return found | {
        LINEAS: lambda pair: language.fitted(lineas, pair),
        LINACT: lambda pair: language.fitted(linact, pair),
    }


def measured(language: Language) -> Iterator[dict[str, Any]]:
    """Records of held-out concepts and of some training ones."""
    every, size = methods(language), language.size
    chosen = [
        (split, pair) for split, pairs in language.concepts.items() for pair in pairs[: size.held_out // 2]
    ]
    for split, pair in chosen:

        def make(split: str = split, pair: Concept = pair) -> dict[str, Any]:
            curves = {name: language.curve(pair, method(pair)) for name, method in every.items()}
            start = {UNSTEERED: [language.point(pair, 0.0)]}
            return {"concept": " ".join(pair), "split": split, "curves": curves | start}

        path = language.folder / "measured" / f"{'-'.join(pair)}.json"
        yield kept(path, [language.name, split, pair, STRENGTHS, SITES], make)


def planned(language: Language, seeds: int) -> str:
    """Planned CPU minutes of each part, from one timed step of each kind: as Markdown."""
    size, pair = language.size, language.concepts[TRAIN][0]
    with TemporaryDirectory() as folder:
        small = Language(language.seed, replace(size, train=16, steps=4, lineas=4), Path(folder))
        more = Language(language.seed, replace(size, train=16, steps=8, lineas=8), Path(folder) / "more")
        each = {
            one: [took(lambda of=of, one=one: of.network(one)) for of in (small, more)] for one in ENCODERS
        }
        lineas = [took(lambda of=of: of.fitted(_lineas(of.size), pair)) for of in (small, more)]
        linact = took(lambda: small.fitted(_linact(), pair))
        steering = small.fitted(_linact(), pair)
        curve = took(lambda: small.curve(pair, steering))
    concepts = 3 * (size.held_out // 2)
    slopes = {one: max(0.0, after - before) / 4 for one, (before, after) in each.items()}
    setup = sum(max(0.0, each[one][0] - 4 * slopes[one]) for one in ENCODERS) * size.train / 16
    minutes = {
        "hypernetworks": sum(slopes.values()) * size.steps + setup,
        "maps": linact * size.train,
        "LinEAS": (lineas[0] + max(0.0, lineas[1] - lineas[0]) / 4 * (size.lineas - 4)) * concepts,
        "measuring": curve * concepts * (3 * len(ENCODERS) + 3),
    }
    rows = [f"| {name} | {seeds * value / 60:.0f} |" for name, value in minutes.items()]
    return f"| part | CPU minutes, {seeds} seeds |\n|---|---|\n" + "\n".join(rows)


def _linact() -> LinAcT:
    return LinAcT(sites=SITES, sequential=False)


def _lineas(size: Size) -> LinEAS:
    return LinEAS(sites=SITES, p=1.0, gamma=0.0, lr=0.05, steps=size.lineas)


def at_kl(record: Mapping[str, Any], method: str) -> float:
    """Concept fidelity where the KL has risen to the budget, or at the largest strength before; the best on the way."""
    line = [*record["curves"][UNSTEERED], *record["curves"][method]]
    inputs, concepts = [-point["kl"] for point in line], [point["concept"] for point in line]
    ends = range(2, len(line) + 1)
    return max(concepts[0], *(within_budget(inputs[:n], concepts[:n], BUDGET_NATS) for n in ends))


def compared(records: Sequence[Mapping[str, Any]], seed: int) -> dict[str, list[dict[str, Any]]]:
    """Differences at equal KL, paired over concepts, of each split, by what they are of."""
    found: dict[str, list[dict[str, Any]]] = {}
    for split in dict.fromkeys(one["split"] for one in records):
        some = [one for one in records if one["split"] == split]
        for encoder in ENCODERS:
            name = f"{HYPER}, {encoder}"
            for rival in (UNSTEERED, MEAN, f"{NEAREST}, {encoder}", f"{RIDGE}, {encoder}", LINEAS):
                gaps = np.array([at_kl(one, name) - at_kl(one, rival) for one in some])
                interval = mean_interval(gaps)
                told = {name: getattr(interval, name) for name in ("value", "low", "high", "n")}
                key = f"{encoder} less {rival.partition(f', {encoder}')[0]}"
                found.setdefault(key, []).append({"what": f"seed {seed}, {split}", "split": split} | told)
    return found


def verdicts(evidence: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, str]]:
    """Whether the hypernetwork does better than each rival on held-out concepts; than LinEAS, whether not worse."""
    rows = []
    for key, every in evidence.items():
        held = [one for one in every if one["split"] != TRAIN and one["low"] == one["low"]]
        rule = not_worse if key.endswith(LINEAS) else above
        rows.append({"what": key, "verdict": rule(held) if held else "not measured"})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--smoke", action="store_true", help="tiny sizes of the first seed, for the code alone"
    )
    parser.add_argument("--folder", type=Path, default=RUNS)
    parser.add_argument("--plan", action="store_true", help="only print the CPU minutes of each part")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.plan:
        print(planned(Language(given.seeds[0], FULL_SIZE, given.folder), len(given.seeds)))
        return
    size, kind = (SMOKE, "language-smoke") if given.smoke else (FULL_SIZE, "language")
    evidence: dict[str, list[Any]] = {}
    runs = []
    for seed in given.seeds[: 1 if given.smoke else None]:
        records = []
        for record in measured(Language(seed, size, given.folder / kind / f"seed-{seed}")):
            records.append(record)
            print(f"seed {seed}, {len(records)}: {record['concept']}", file=sys.stderr, flush=True)
        for key, found in compared(records, seed).items():
            evidence.setdefault(key, []).extend(found)
        runs.append({"seed": seed, "means": means(records)})
    if given.smoke:
        print(to_json(verdicts(evidence), indent=1), file=sys.stderr)
        return
    record = {
        "command": f"python benchmarks/hypertransport/language.py --seeds {' '.join(map(str, given.seeds))}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {one: version(one) for one in ("trimtab", "torch", "transformers", "numpy")},
        "hardware": hardware(),
        "settings": {"size": size, "budget_nats": BUDGET_NATS, "margin": MARGIN, "strengths": STRENGTHS},
        "verdicts": verdicts(evidence),
        "evidence": evidence,
        "runs": runs,
    }
    write_atomic(RESULTS / "language.json", to_json(plain(record), indent=1) + "\n")


def means(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Means over concepts of each split, method and strength."""
    rows = []
    for split, method in product(
        dict.fromkeys(one["split"] for one in records), records[0]["curves"] if records else ()
    ):
        curves = [one["curves"][method] for one in records if one["split"] == split]
        for points in zip(*curves, strict=True):
            told = {
                name: round(float(np.mean([point[name] for point in points])), DIGITS) for name in points[0]
            }
            rows.append({"split": split, "method": method, "n": len(points), **told})
    return rows


if __name__ == "__main__":
    main()
