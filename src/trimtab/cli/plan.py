"""`trimtab plan`: the smallest share of pretraining data that keeps a rise small in 95 % of a law's refits."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence

from trimtab.cli.console import CRITERION_FAILED, DONE, note, parser, say
from trimtab.errors import ConfigError, explain
from trimtab.systems import imported

_UNITS = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}


def main(argv: Sequence[str]) -> int:
    """Plan one run; exit code 1 where no share keeps the promise in so many refits."""
    options = parser("plan", as_json=True)
    options.add_argument("--law", required=True, metavar="FILE", help="written by ForgettingLaw.save()")
    options.add_argument("--params", required=True, type=count, help="parameters of the model, such as 1.4B")
    options.add_argument("--tokens", required=True, type=count, help="unique fine-tuning tokens, such as 30M")
    options.add_argument(
        "--max-rise", required=True, type=float, help="of the pretraining loss, nats per token"
    )
    options.add_argument(
        "--confidence",
        type=float,
        default=0.95,
        help="share of the law's refits in which the promise is kept (default 0.95; 0.5 is the median)",
    )
    options.add_argument(
        "--loss-pt0",
        type=float,
        metavar="NATS",
        help="pretraining loss of the base model; with it the scatter of runs counts, too",
    )
    asked = options.parse_args(argv)
    for name in ("params", "tokens", "max_rise", "loss_pt0"):
        value = getattr(asked, name)
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"--{name.replace('_', '-')}: {explain(value, 'a number above 0')}")
    if not 0.5 <= asked.confidence < 1:
        hint = "0.95" if not 50 < asked.confidence < 100 else f"{asked.confidence / 100:g}"
        raise ConfigError(
            f"--confidence: {explain(asked.confidence, 'a share of the refits, from 0.5 to below 1', hint)}"
        )
    plan = imported("trimtab.adapt.forgetting.laws:plan_share")(
        asked.law,
        params=asked.params,
        tokens=asked.tokens,
        max_rise=asked.max_rise,
        confidence=asked.confidence,
        loss_pt0=asked.loss_pt0,
    )
    say(json.dumps(plan.to_plain(), indent=1) if asked.json else plan.to_text())
    for warning in plan.warnings:
        note(f"Warning: {warning}.")
    return CRITERION_FAILED if math.isnan(plan.inject) else DONE


def count(text: str) -> float:
    """A count as people write it: 30000, 3e7, 30M, 1.4B.

    >>> count("1.4B"), count("3e7"), count("500k")
    (1400000000.0, 30000000.0, 500000.0)
    """
    unit = _UNITS.get(text[-1:].lower())
    try:
        return float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        message = explain(repr(text), "a count such as 3e7, 30M or 1.4B")
        raise argparse.ArgumentTypeError(message) from None
