"""Which units know which noun: ExpertLens from Python, on a small model of a made-up language that is trained here.

python examples/expertlens.py [OUT]        a minute, once; seconds after that; writes OUT/report.html
"""

from __future__ import annotations

import sys
from pathlib import Path

from trimtab import ExpertLens, load
from trimtab.job import carry_out
from trimtab.lab.grammar_model import GrammarModel, grammar_model
from trimtab.lab.registry import concepts, noun_concepts, noun_topics, ratings
from trimtab.read.experts.job import ExpertLensConfig
from trimtab.read.experts.ratings import read_ratings


def main(out: Path) -> None:
    folder = grammar_model(settings=GrammarModel(layers=2, steps=150))
    lens = ExpertLens.fit(load(folder), noun_concepts())
    print(lens.experts("violin", top=3).to_string(index=False))
    similar = lens.similarity(top=50)["violin"].drop("violin").nlargest(3)
    print("most like the violin:", ", ".join(f"{name} {value:.2f}" for name, value in similar.items()))
    found = lens.align(read_ratings(ratings("topics")), top=50)
    print(f"rho with 'of one topic': {found.rho:.2f} [{found.interval.low:.2f}, {found.interval.high:.2f}]")
    tree = lens.tree({noun: str(topic) for noun, topic in noun_topics().items()}, top=50)
    print(f"two nouns of one topic are more alike than two of different ones, at AUC {tree.auc:.2f}")

    config = ExpertLensConfig(
        model=str(folder),
        concepts=str(concepts("nouns")),
        ratings={"topics": str(ratings("topics"))},
        top=50,
    )
    carry_out(config, out)
    print(out / "report.html")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example-expertlens"))
