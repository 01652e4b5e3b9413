"""`trimtab steer`: fit a steering, try it, measure it over strengths, fold it into weights."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.cli.console import Bars, Verb, note, parser, say
from trimtab.errors import explain
from trimtab.systems import imported, lab_folder

FIT = Verb(
    "fit a steering from a config or a recipe", "trimtab steer fit steering/quickstart --estimator.steps 200"
)


def main(argv: Sequence[str]) -> int:
    """Hand over to one of the four; `fit` is `run` for configs of the system steering."""
    if argv and argv[0] == "fit":
        from trimtab.cli import run

        return run.main([*argv[1:], "--system", "steering"], "steer fit", FIT)
    options = parser("steer")
    verbs = options.add_subparsers(dest="action", metavar="ACTION", required=True)
    verbs.add_parser("fit", help="fit one from a config or a recipe: trimtab run of a steering")
    for action, (carry_out, what, example, given) in ACTIONS.items():
        example = f"Example: trimtab steer {action} runs/my-1 path/to/model {example}"
        sub = verbs.add_parser(action, help=what, epilog=example)
        sub.set_defaults(carry_out=carry_out)
        for name, settings in {**_BOTH, **given}.items():
            sub.add_argument(name, **settings)
    arguments = options.parse_args(argv)
    with Bars() as bars:
        arguments.model = lab_folder("model", arguments.model, bars.bar)
    code: int = arguments.carry_out(arguments)
    return code


def try_out(arguments: argparse.Namespace) -> int:
    """Complete prompts at several strengths."""
    complete = imported("trimtab.steer.lineas.job:complete")
    given = (arguments.prompts, arguments.strengths, arguments.max_new_tokens)
    rows = complete(arguments.steering, arguments.model, *given).to_dict("records")
    if arguments.json:
        say(json.dumps(rows, indent=2))
        return 0
    for prompt in arguments.prompts:
        say(repr(prompt))
        for row in rows:
            if row["prompt"] == prompt:
                say(f"  {row['strength']:<5g} {row['text']!r}")
    return 0


def sweep(arguments: argparse.Namespace) -> int:
    """Measure effect and side effect over strengths."""
    measure = imported("trimtab.steer.lineas.job:measure")
    files = {n: getattr(arguments, n) for n in ("source", "target", "neutral") if getattr(arguments, n)}
    files = {name: lab_folder(name, value) for name, value in files.items()}
    given = (files, arguments.texts, arguments.strengths, arguments.budget, arguments.max_strength)
    curve, within = measure(arguments.steering, arguments.model, *given)
    if arguments.json:
        from trimtab.runs.serialise import to_json

        told = {"curve": curve.to_dict("records"), "strength_within_budget": within and within.strength}
        if within is not None:
            told |= {"cost_within_budget": within.cost, "budget_reached": within.reached}
        say(to_json(told, indent=2))
        return 0
    say(curve.to_string(index=False, float_format=lambda value: f"{value:.4f}", na_rep="-"))
    if within is not None:
        say(f"largest strength within {arguments.budget:g} nats: {within.strength:.3f}")
        if not within.reached:
            note(
                f"Not all of the budget is used: {within.to_text().replace('max_strength', '--max-strength')}."
            )
    return 0


def fuse(arguments: argparse.Namespace) -> int:
    """Fold a steering into the weights of a checkpoint of its own."""
    write = imported("trimtab.steer.lineas.job:fuse")
    write(arguments.steering, arguments.model, arguments.strength, arguments.out)
    if arguments.json:
        say(json.dumps({"folder": str(arguments.out), "strength": arguments.strength}))
    else:
        say(f"{arguments.out}: a plain checkpoint, read back and compared")
    return 0


def _numbers(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)):
        raise argparse.ArgumentTypeError(explain(f"{text!r:.60}", "numbers with commas between", "0,0.5,1"))
    return numbers


_BOTH: Mapping[str, Any] = {
    "steering": {"metavar": "STEERING", "help": "a steering's folder, a run's, or a hub name"},
    "model": {"metavar": "MODEL", "help": "the model it was fitted on"},
    "--json": {"action": "store_true", "help": "print the result as JSON"},
}
_STRENGTHS: Mapping[str, Any] = {"type": _numbers, "metavar": "S,S,..."}
ACTIONS: Mapping[str, tuple[Callable[[argparse.Namespace], int], str, str, Mapping[str, Any]]] = {
    "try": (
        try_out,
        "complete prompts at several strengths",
        "'I went to' --strengths 0,0.5,1",
        {
            "prompts": {"nargs": "+", "metavar": "PROMPT", "help": "texts to go on with"},
            "--strengths": {**_STRENGTHS, "default": (0.0, 0.5, 1.0)},
            "--max-new-tokens": {"type": int, "default": 32, "metavar": "N"},
        },
    ),
    "sweep": (
        sweep,
        "effect and side effect over strengths, on texts of yours",
        "--source rude.txt --target kind.txt",
        {
            "--source": {"required": True, "metavar": "FILE", "help": "texts of the behaviour as it is"},
            "--target": {
                "required": True,
                "metavar": "FILE",
                "help": "texts of the behaviour as it should be",
            },
            "--neutral": {"metavar": "FILE", "help": "texts that should be left alone"},
            "--texts": {"type": int, "default": 64, "metavar": "N", "help": "of each file"},
            "--budget": {"type": float, "metavar": "NATS", "help": "KL on neutral text to stay within"},
            "--max-strength": {
                "type": float,
                "default": 1.0,
                "metavar": "S",
                "help": "for the budget; above 1 maps are scaled up",
            },
            "--strengths": {**_STRENGTHS, "default": (0, 0.25, 0.5, 0.75, 1)},
        },
    ),
    "fuse": (
        fuse,
        "fold a steering into the weights of a checkpoint of its own",
        "--out path/to/steered",
        {
            "--out": {
                "type": Path,
                "required": True,
                "metavar": "DIR",
                "help": "the folder of the checkpoint",
            },
            "--strength": {"type": float, "default": 1.0, "metavar": "S"},
        },
    ),
}
"""What there is to do with a steering: by whom, what it is for, an example, and its options."""
