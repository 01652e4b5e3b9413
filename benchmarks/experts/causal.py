"""A causal model trained here: does the overlap of its experts come to follow topics, and do experts do something?

    OMP_NUM_THREADS=1 python benchmarks/experts/causal.py        writes benchmarks/results/experts/causal.json
    python benchmarks/experts/causal.py --means                  makes its means over topics anew, and runs nothing

A small Llama learns the grammar world; at random initialisation and at four checkpoints of one run ExpertLens is
fitted to all 80 nouns in the same sentences, so that shared words say nothing about topics. Truth: two nouns of one
topic are alike. At random initialisation and at the last checkpoint the experts of each *topic* (its documents against
those of other topics) are silenced and forced, beside random units and units matched in site and mean response; what
moves is the probability of the topic's nouns and verbs in other documents, of all topics.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM

from trimtab.data.concepts import ConceptSet
from trimtab.lab.grammar import TOPICS, Grammar, World
from trimtab.lab.grammar_model import GrammarModel, world_config, world_tokenizer
from trimtab.lab.registry import noun_concepts, ratings
from trimtab.models.load import Model, load
from trimtab.read.experts.agreement import agree
from trimtab.read.experts.baselines import causal_check, shared_words, static_embeddings
from trimtab.read.experts.lens import ExpertLens
from trimtab.read.experts.ratings import judged, read_ratings
from trimtab.runs.environment import hardware, threads, versions
from trimtab.seeds import derive, isolated

sys.path.append(str(Path(__file__).parents[1]))
from verdicts import INTERVAL, mean_interval

RESULTS = Path(__file__).parents[1] / "results" / "experts"
STEPS, CHECKPOINTS, SEED, TOP, TAU = 320, (0, 40, 80, 160, 320), 0, 100, 0.5
SILENCED, DOCUMENTS = 50, 24
INTERVALS = f"alignment: 95 % percentile bootstrap over nouns, 200 draws; effects: over topics, {INTERVAL}"


def checkpoints(world: World):
    """The model at random initialisation and after so many steps of one run at a constant learning rate."""
    settings = GrammarModel(layers=4)
    with isolated(derive(SEED, "grammar", "weights")):
        network = LlamaForCausalLM(world_config(world, settings))
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    documents = torch.Generator().manual_seed(derive(SEED, "grammar", "documents"))
    for step in range(STEPS + 1):
        if step in CHECKPOINTS:
            network.train(False)
            yield step, load(network, tokenizer=world_tokenizer(world))
            network.train(True)
        ids = world.sample(settings.batch_size, generator=documents).ids
        truth = world.next_token(ids).float()
        loss = F.cross_entropy(network(input_ids=ids).logits.flatten(0, 1), truth.flatten(0, 1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def excess(world: World, model: Model) -> float:
    """Mean KL(truth || model) in nats per token on held-out documents."""
    held = world.sample(64, generator=torch.Generator().manual_seed(derive(SEED, "held out")))
    with torch.no_grad():
        logp = model.module(input_ids=held.ids).logits.double().log_softmax(-1)
    truth = world.next_token(held.ids)
    return float(torch.where(truth > 0, truth * (truth.clamp(min=1e-30).log() - logp), 0.0).sum(-1).mean())


def topic_concepts(world: World) -> tuple[ConceptSet, list[str], dict[str, list[str]]]:
    """Topics by their documents, other documents to look at, and the nouns and verbs of each."""
    draw = torch.Generator().manual_seed(derive(SEED, "topics"))
    positive, others = {}, []
    for topic, name in enumerate(TOPICS[: world.grammar.topics]):
        made = list(
            dict.fromkeys(world.sample(DOCUMENTS + 4, generator=draw, topic=topic, sentences=2).texts)
        )
        positive[name], others = made[:DOCUMENTS], [*others, *made[DOCUMENTS:]]
    words = [[*nouns, *verbs] for nouns, verbs in zip(world.lexicon.nouns, world.lexicon.verbs, strict=True)]
    named = dict(zip(positive, words, strict=True))
    return ConceptSet.one_against_rest(positive, negatives=60, words=False, seed=SEED), others, named


def row(step: int, world: World, model: Model, human) -> dict[str, object]:
    concepts = noun_concepts(seed=SEED)
    lens = ExpertLens.fit(model, concepts, seed=SEED)
    found: dict[str, object] = {"step": step, "kl_to_truth_nats": round(excess(world, model), 4)}
    for name, how in {f"AP above {TAU}": {"tau": TAU}, f"top {TOP}": {"top": TOP}}.items():
        similarity = lens.similarity(**how)
        it = agree(similarity, human, n_perm=499, n_boot=200, seed=SEED)
        tree = lens.tree(taxonomy(world), **how)
        found[name] = {
            "rho": it.rho,
            "low": it.interval.low,
            "high": it.interval.high,
            "mantel_p": it.mantel_p,
        }
        found[name] |= {"auc": tree.auc, "adjusted_rand": tree.adjusted_rand}
        found[name] |= {"n_pairs": it.n_pairs, "n_concepts": it.n_concepts}
    for name, matrix in {
        "static input embeddings": static_embeddings(model, concepts),
        "shared words": shared_words(concepts),
    }.items():
        it = agree(lens.framed(matrix), human, n_perm=499, n_boot=200, seed=SEED)
        found[name] = {
            "rho": it.rho,
            "low": it.interval.low,
            "high": it.interval.high,
            "mantel_p": it.mantel_p,
        }
    return found


def taxonomy(world: World) -> dict[str, str]:
    return {noun: TOPICS[topic] for topic, nouns in enumerate(world.lexicon.nouns) for noun in nouns}


def over_topics(topics: Sequence[Mapping[Any, Any]]) -> dict[str, dict[str, float]]:
    """Mean effects of experts and of other units, and of experts less the others, with intervals over topics."""
    values = {units: np.array([row[units] for row in topics]) for units in ("experts", "random", "matched")}
    for units in ("random", "matched"):
        values[f"experts - {units}"] = values["experts"] - values[units]
    return {name: asdict(mean_interval(value)) for name, value in values.items()}


def main() -> None:
    if "--means" in sys.argv[1:]:
        result = json.loads((RESULTS / "causal.json").read_text(encoding="utf-8"))
        for effect in result["effects"].values():
            effect["means"] = over_topics(effect["topics"])
        write(result | {"interval": INTERVALS})
        return
    torch.set_num_threads(1)
    before, wall, cpu = os.getloadavg(), time.perf_counter(), time.process_time()
    world = World(Grammar())
    human = judged(read_ratings(ratings("topics")), noun_concepts(seed=SEED).names)
    rows, effects = [], {}
    for step, model in checkpoints(world):
        rows.append(row(step, world, model, human))
        print(json.dumps(rows[-1]), flush=True)
        if step in (0, STEPS):
            concepts, texts, words = topic_concepts(world)
            lens = ExpertLens.fit(model, concepts, seed=SEED)
            for way in ("silence", "force"):
                changes = causal_check(lens, texts, words, way=way, top=SILENCED, seed=SEED)
                topics = changes.to_dict("records")
                means = over_topics(topics)
                effects[f"step {step}, {way}"] = {"means": means, "topics": topics}
                print(step, way, json.dumps(means), flush=True)
    result = {
        "command": "OMP_NUM_THREADS=1 python benchmarks/experts/causal.py",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": versions(),
        "hardware": hardware(),
        "threads": threads(),
        "seed": SEED,
        "load_average": {"before": before, "after": os.getloadavg()},
        "wall_s": round(time.perf_counter() - wall, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
        "interval": INTERVALS,
        "unit_of_effects": "nats: change of the log probability of a topic's nouns and verbs, mean over places",
        "alignment": rows,
        "effects": effects,
    }
    write(result)


def write(result: Mapping[str, Any]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "causal.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
