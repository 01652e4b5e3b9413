"""How long does a comparison take? Two models of ten million parameters on four corpora, with the default settings.

    python benchmarks/compare/speed.py        writes benchmarks/results/compare/speed.json

The models are untrained, which costs nothing and changes no time. Tokenising is part of it: the cache is a new one.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from trimtab import compare, load
from trimtab.adapt.compare.domains import ComparedDomain
from trimtab.lab import corpora, models
from trimtab.runs.atomic import write_atomic
from trimtab.runs.environment import hardware
from trimtab.runs.serialise import to_json

RESULT = Path(__file__).parents[1] / "results" / "compare" / "speed.json"
CORPORA = ("python", "docstrings", "headers", "tests")


def large(seed: int) -> Any:
    """An untrained model of some ten million parameters with the tokenizer of the lab."""
    words = load(models.lab_model("text-tiny")).tokenizer
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=320,
        intermediate_size=1024,
        num_hidden_layers=7,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=512,
    )
    torch.manual_seed(seed)
    return load(LlamaForCausalLM(config).eval(), tokenizer=words)


def timed(cache: str) -> dict[str, Any]:
    """Two models of ten million parameters on four corpora of the lab, with the default settings."""
    one, other = large(0), large(1)
    domains = {name: ComparedDomain(str(corpora.corpus(name)), tolerance=0.02) for name in CORPORA}
    os.environ["TRIMTAB_CACHE"] = cache
    load_average, start, cpu = os.getloadavg()[0], time.perf_counter(), time.process_time()
    result = compare(one, other, domains)
    return {
        "parameters": sum(weight.numel() for weight in one.module.parameters()),
        "domains": len(domains),
        "sequences": int(result.changes["n"].sum()),
        "positions": int(result.predictions["positions"].sum()),
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "threads": torch.get_num_threads(),
        "load_average_at_start": load_average,
        "goal_seconds": 60,
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as cache:
        measured = timed(cache)
    result = {
        "command": "python benchmarks/compare/speed.py",
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("trimtab", "torch", "transformers")},
        "python": platform.python_version(),
        "hardware": hardware(),
        **measured,
    }
    write_atomic(RESULT, to_json(result, indent=1) + "\n")
    print(to_json(result, indent=1))


if __name__ == "__main__":
    main()
