"""Text for the benchmark: more of the installation than the lab's corpora hold, so that base models read it few times.

The pretraining mixture is Python source, docstrings and unit tests; the two domains to fine-tune on stand nearer to it
(type stubs: Python without bodies) and farther from it (C++ headers).
"""

from __future__ import annotations

import json
from pathlib import Path

from trimtab.lab.corpora import clean, deal, find, fingerprint, in_order, source_of
from trimtab.runs.paths import built_once, cache_home

POOL = ("python", "docstrings", "tests")
DOMAINS = {"near": "stubs", "far": "headers"}
CAP = 12_000_000
RECIPE = 1


def text(name: str) -> Path:
    """A folder with train, validation and test documents of a corpus, at most 12 MB; made on first use."""

    def build(folder: Path) -> None:
        files = clean(in_order(find(name)), source_of(name).documents, cap=CAP)
        for split, its in deal(files).items():
            lines = [json.dumps({"text": one}, ensure_ascii=False) for file in its for one in file.documents]
            (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
        card = {"versions": source_of(name).versions(), "fingerprint": fingerprint(folder)}
        card["bytes"] = sum(file.size for file in files)
        (folder / "card.json").write_text(json.dumps(card, indent=1), encoding="utf-8")

    return built_once(cache_home() / "benchmarks" / "forgetting" / f"{name}-{RECIPE}", build)


def pretraining() -> Path:
    """The pool as one domain: its documents in turn, as many of each corpus as of the shortest in bytes."""

    def build(folder: Path) -> None:
        homes = [text(name) for name in POOL]
        for split in ("train", "validation", "test"):
            texts = [(home / f"{split}.jsonl").read_text(encoding="utf-8").splitlines() for home in homes]
            least = min(sum(map(len, lines)) for lines in texts)
            kept = [_first(lines, least) for lines in texts]
            order = sorted(
                (place / len(lines), which, line)
                for which, lines in enumerate(kept)
                for place, line in enumerate(lines)
            )
            mixed = "\n".join(line for *_, line in order) + "\n"
            (folder / f"{split}.jsonl").write_text(mixed, encoding="utf-8", newline="\n")
        card = {"fingerprint": fingerprint(folder), "pool": POOL}
        (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")

    return built_once(cache_home() / "benchmarks" / "forgetting" / f"pretraining-{RECIPE}", build)


def _first(lines: list[str], size: int) -> list[str]:
    kept = []
    for line in lines:
        if size <= 0:
            break
        kept.append(line)
        size -= len(line)
    return kept
