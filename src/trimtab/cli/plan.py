"""`trimtab plan`: the share of pretraining data that keeps a promise, by a law that was fitted before."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from trimtab.cli.console import note, parser, say
from trimtab.cli.main import CRITERION_FAILED, DONE
from trimtab.errors import ConfigError, explain
from trimtab.systems import imported


def main(argv: Sequence[str]) -> int:
    """Plan one run; exit code 1 where no share keeps the promise."""
    options = parser("plan")
    options.add_argument("--law", required=True, metavar="FILE", help="written by ForgettingLaw.save()")
    options.add_argument("--params", required=True, type=float, help="parameters of the model")
    options.add_argument("--tokens", required=True, type=float, help="unique fine-tuning tokens")
    options.add_argument(
        "--max-rise", required=True, type=float, help="of the pretraining loss, nats per token"
    )
    options.add_argument("--json", action="store_true", help="print JSON")
    asked = options.parse_args(argv)
    for name in ("params", "tokens", "max_rise"):
        if not 0 < getattr(asked, name) < math.inf:
            where = "--" + name.replace("_", "-")
            raise ConfigError(f"{where}: {explain(getattr(asked, name), 'a number above 0')}")
    plan = imported("trimtab.adapt.forgetting_plan:plan_share")(
        asked.law, params=asked.params, tokens=asked.tokens, max_rise=asked.max_rise
    )
    say(json.dumps(plan.to_plain(), indent=1) if asked.json else plan.to_text())
    for warning in plan.warnings:
        note(f"Warning: {warning}.")
    return CRITERION_FAILED if math.isnan(plan.inject) else DONE
