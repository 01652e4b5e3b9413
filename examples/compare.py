"""What did a fine-tuning break? A small model is trained on C++ headers by a plain loop, then held against its base.

python examples/compare.py [OUT]        about a minute; writes OUT/report.html
"""

from __future__ import annotations

import sys
from copy import deepcopy
from itertools import islice
from pathlib import Path

import torch

from trimtab import Domain, Model, compare, load
from trimtab.lab import corpora, models


def trained_elsewhere(base: Model, texts: list[str], steps: int) -> Model:
    """The base model after some steps of Adam on these texts, as any script would take them."""
    module, words = deepcopy(base.module), base.tokenizer
    optimizer = torch.optim.Adam(module.parameters(), lr=2e-4)
    for step in range(steps):
        text = texts[step % len(texts)]
        ids = words(text, return_tensors="pt", truncation=True, max_length=128)["input_ids"]
        module(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return load(module, tokenizer=words)


def main(out: Path) -> None:
    base = load(models.lab_model("text-tiny"))
    # Nats per token by which each loss may rise.
    allowed = {"headers": 0.0, "python": 0.05, "docstrings": 0.05, "tests": 0.05}
    domains = {name: Domain.from_path(name, corpora.corpus(name)) for name in allowed}
    texts = [item.text for item in islice(domains["headers"].items("train"), 200)]
    tuned = trained_elsewhere(base, texts, steps=100)
    result = compare(
        base, tuned, domains, tolerances=allowed, sequences=60, seq_len=128
    )  # of their test splits
    print(result)
    kl = result.predictions.set_index("domain")["kl"]
    print("KL at step 100:", ", ".join(f"{name} {value:.3f}" for name, value in kl.items()))
    print("every tolerance kept or open:", result.passed)
    print(result.report(out / "report.html"))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example-compare"))
