"""`trimtab steer`: fit a steering, try it, measure it over strengths, fold it into weights."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trimtab.cli.console import Bars, note, parser, say
from trimtab.cli.main import Verb
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
    _add_try(verbs)
    _add_sweep(verbs)
    _add_fuse(verbs)
    arguments = options.parse_args(argv)
    action: Callable[[argparse.Namespace], int] = arguments.carry_out
    return action(arguments)


def _add_try(verbs: Any) -> None:
    example = "Example: trimtab steer try runs/my-1 path/to/model 'I went to' --strengths 0,0.5,1"
    options = verbs.add_parser("try", help="complete prompts at several strengths", epilog=example)
    _add_both(options)
    options.add_argument("prompts", nargs="+", metavar="PROMPT", help="texts to go on with")
    options.add_argument("--strengths", type=_numbers, default=(0.0, 0.5, 1.0), metavar="S,S,...")
    options.add_argument("--max-new-tokens", type=int, default=32, metavar="N")
    options.set_defaults(carry_out=_try)


def _add_sweep(verbs: Any) -> None:
    what = "effect and side effect over strengths, on texts of yours"
    example = "Example: trimtab steer sweep runs/my-1 path/to/model --source rude.txt --target kind.txt"
    options = verbs.add_parser("sweep", help=what, epilog=example)
    _add_both(options)
    for name, what in (("source", "behaviour as it is"), ("target", "behaviour as it should be")):
        options.add_argument(f"--{name}", required=True, metavar="FILE", help=f"texts of the {what}")
    options.add_argument("--neutral", metavar="FILE", help="texts that should be left alone")
    options.add_argument("--texts", type=int, default=64, metavar="N", help="of each file")
    options.add_argument("--budget", type=float, metavar="NATS", help="KL on neutral text to stay within")
    options.add_argument(
        "--max-strength",
        type=float,
        default=1.0,
        metavar="S",
        help="for the budget; above 1 maps are scaled up",
    )
    options.add_argument("--strengths", type=_numbers, default=(0, 0.25, 0.5, 0.75, 1), metavar="S,S,...")
    options.set_defaults(carry_out=_sweep)


def _add_fuse(verbs: Any) -> None:
    what = "fold a steering into the weights of a checkpoint of its own"
    example = "Example: trimtab steer fuse runs/my-1 path/to/model --out path/to/steered"
    options = verbs.add_parser("fuse", help=what, epilog=example)
    _add_both(options)
    options.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the folder of the checkpoint"
    )
    options.add_argument("--strength", type=float, default=1.0, metavar="S")
    options.set_defaults(carry_out=_fuse)


def _add_both(options: argparse.ArgumentParser) -> None:
    options.add_argument("steering", metavar="STEERING", help="a steering's folder, a run's, or a hub name")
    options.add_argument("model", metavar="MODEL", help="the model it was fitted on")
    options.add_argument("--json", action="store_true", help="print the result as JSON")


def _try(arguments: argparse.Namespace) -> int:
    complete = imported("trimtab.steer.lineas.job:complete")
    given = (arguments.prompts, arguments.strengths, arguments.max_new_tokens)
    rows = complete(arguments.steering, _model(arguments), *given).to_dict("records")
    if arguments.json:
        say(json.dumps(rows, indent=2))
        return 0
    for prompt in arguments.prompts:
        say(repr(prompt))
        for row in rows:
            if row["prompt"] == prompt:
                say(f"  {row['strength']:<5g} {row['text']!r}")
    return 0


def _sweep(arguments: argparse.Namespace) -> int:
    measure = imported("trimtab.steer.lineas.job:measure")
    files = {n: getattr(arguments, n) for n in ("source", "target", "neutral") if getattr(arguments, n)}
    files = {name: lab_folder("texts", value) for name, value in files.items()}
    given = (files, arguments.texts, arguments.strengths, arguments.budget, arguments.max_strength)
    curve, within = measure(arguments.steering, _model(arguments), *given)
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


def _fuse(arguments: argparse.Namespace) -> int:
    fuse = imported("trimtab.steer.lineas.job:fuse")
    fuse(arguments.steering, _model(arguments), arguments.strength, arguments.out)
    if arguments.json:
        say(json.dumps({"folder": str(arguments.out), "strength": arguments.strength}))
    else:
        say(f"{arguments.out}: a plain checkpoint, read back and compared")
    return 0


def _model(arguments: argparse.Namespace) -> str:
    with Bars() as bars:
        return lab_folder("model", arguments.model, bars.bar)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)):
        raise argparse.ArgumentTypeError(explain(f"{text!r:.60}", "numbers with commas between", "0,0.5,1"))
    return numbers
