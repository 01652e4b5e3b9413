"""`trimtab steer`: fit a steering, try it, measure it over strengths, fold it into weights, make one of a concept."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.cli.console import Verb, in_message, note, parser, path_named, say, sentence
from trimtab.cli.jobs import check_folder, find_run, run
from trimtab.errors import CheckpointError, ConfigProblems, Problem, explain
from trimtab.runs.live import Bars
from trimtab.runs.paths import missing_file, missing_source, runs_home
from trimtab.systems import imported, lab_folder

FIT = Verb(
    "fit a steering from a config or a recipe", "trimtab steer fit steering/quickstart --estimator.steps 200"
)


def steer(argv: Sequence[str]) -> int:
    """Hand over to one of the five; `fit` is `run` for configs of the system steering."""
    if argv and argv[0] == "fit":
        return run([*argv[1:], "--system", "steering"], "steer fit", FIT)
    options = parser("steer")
    verbs = options.add_subparsers(dest="action", metavar="ACTION", required=True)
    verbs.add_parser("fit", help="fit one from a config or a recipe: trimtab run of a steering")
    for action, (carry_out, what, example, given) in ACTIONS.items():
        if action != "concept":
            example = f"runs/my-1 path/to/model {example}"
        example = f"Example: trimtab steer {action} {example}"
        sub = verbs.add_parser(action, help=what, description=sentence(what), epilog=example)
        sub.set_defaults(carry_out=carry_out)
        sub.add_argument("--json", action="store_true", help="print the result as JSON")
        for name, settings in given.items():
            sub.add_argument(*name.split(), **settings)
    arguments = options.parse_args(argv)
    if problems := list(problems_of(arguments)):
        raise ConfigProblems(problems)
    if arguments.action == "concept":
        arguments.hyper = find_hypernetwork(arguments.hyper)
    else:
        arguments.steering = find_steering(arguments.steering)
    if arguments.action in ("fuse", "concept"):
        arguments.out = check_folder(arguments.out)
    if sys.stderr is None or not sys.stderr.isatty():  # else a download of the model, which may take long
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with Bars() as bars:
        for name in ("model", "encoder"):
            if value := getattr(arguments, name, ""):
                setattr(arguments, name, lab_folder("model", value, bars.bar))
    code: int = arguments.carry_out(arguments)
    return code


def problems_of(arguments: argparse.Namespace) -> Iterator[Problem]:
    """Problems that show before a model is loaded or built: numbers out of range, files that are not there."""
    above, unit = (lambda x: 0 < x < math.inf), (lambda x: 0 <= x <= 1)
    ranges: Mapping[str, tuple[Callable[[float], bool], str]] = {
        "strengths": (unit, "numbers in [0, 1]"),
        "strength": (unit, "a number in [0, 1]"),
        "max_new_tokens": (lambda x: x >= 1, "at least 1"),
        "texts": (lambda x: x >= 2, "at least 2"),
        "budget": (above, "a number above 0"),
        "max_strength": (above, "a number above 0"),
    }
    for name, (fine, expected) in ranges.items():
        given = getattr(arguments, name, None)
        for value in given if isinstance(given, tuple) else () if given is None else (given,):
            if not fine(value):
                yield Problem(f"--{name.replace('_', '-')}", f"{value:g}", expected)
    if getattr(arguments, "budget", None) is not None and not arguments.neutral:
        yield Problem("--budget", "no neutral texts", "--neutral FILE")
    if arguments.action == "concept":
        yield from concept_problems(arguments)
    for name in ("source", "target", "neutral"):
        if file := getattr(arguments, name, None):
            yield from missing_source(f"--{name}", file, "a file or a glob of texts", folders=False)
    if (columns := getattr(arguments, "columns", None)) is not None:
        for problem in imported("trimtab.data.records:column_problems")(columns):
            yield Problem(f"--{problem.where}", problem.got, problem.expected, problem.hint)


def find_steering(text: str) -> str:
    """The folder of a steering or of a run, also by its name in `trimtab runs`; else a hub name as it is.

    Raises:
        CheckpointError: there is no such folder, and it is no hub name: without owner, or with a folder for an owner.
    """
    try:
        return str(find_run(text, "a steering or a run, or a hub name (owner/name)"))
    except CheckpointError:
        owner = Path(text).parent
        local = text.startswith((".", "/", "~")) or text.count("/") != 1
        if not (local or owner.is_dir() or owner == runs_home()):
            return text
        raise


def concept_problems(arguments: argparse.Namespace) -> Iterator[Problem]:
    """Problems of a concept: neither words nor a picture, both, blank words, or no such file."""
    words, image = arguments.words, arguments.image
    if (words is None) == (image is None):
        got = "neither" if words is None else "both"
        yield Problem("concept", f"{got} words and --image", "one of them", "'a red cross'")
    elif words is not None and not words.strip():
        yield Problem("concept", f"blank words {words!r}", "words", "'a red cross'")
    elif image is not None:
        yield from missing_file("--image", image, "a picture")


def find_hypernetwork(text: str) -> str:
    """The folder of a hypernetwork, or of a run that fitted one, also by its name in `trimtab runs`.

    Raises:
        CheckpointError: there is no such folder, or no hypernetwork in it.
    """
    folder, file = find_run(text, "a hypernetwork, or of a run that fitted one"), "hypertransport_config.json"
    if not any((place / file).is_file() for place in (folder, folder / "artifacts" / "hypernetwork")):
        hint = "trimtab run hypertransport/quickstart"
        raise CheckpointError(
            explain(f"{folder} without {file}", "a hypernetwork, or a run that fitted one", hint)
        )
    return str(folder)


def concept(arguments: argparse.Namespace) -> int:
    """Write the steering of a concept that a hypernetwork makes of words or a picture."""
    make, out, image = (
        imported("trimtab.steer.hypertransport.job:concept_steering"),
        arguments.out,
        arguments.image,
    )
    given = arguments.words if image is None else Path(image)
    steering = make(arguments.hyper, given, arguments.strength, arguments.model, arguments.encoder)
    steering.save_pretrained(out)
    facts = {name: steering.made_by[name] for name in ("novelty", "usual_novelty", "nearest_concept")}
    facts["unheard"] = steering.made_by.get("unheard", [])
    if arguments.json:
        say(json.dumps({"folder": str(out), "strength": arguments.strength, **facts}))
        return 0
    say(f"{out}: a steering; novelty {facts['novelty']:.3f}, nearest to {facts['nearest_concept']!r}")
    if facts["novelty"] > facts["usual_novelty"]:
        beyond = f"95 % of the training concepts are below {facts['usual_novelty']:.3f}"
        note(f"The concept lies outside what was trained on: {beyond}. Try it before you trust it.")
    if facts["unheard"]:
        note(f"The encoder does not know {in_message(', '.join(map(repr, facts['unheard'])))}.")
    return 0


def try_out(arguments: argparse.Namespace) -> int:
    """Complete prompts at several strengths."""
    complete = imported("trimtab.steer.lineas.on_disk:complete")
    prompts: list[Any] = arguments.prompts
    if arguments.chat or arguments.system_prompt is not None:
        opening = [] if arguments.system_prompt is None else [_message("system", arguments.system_prompt)]
        prompts = [[*opening, _message("user", prompt)] for prompt in prompts]
    given = (prompts, arguments.strengths, arguments.max_new_tokens)
    rows = complete(arguments.steering, arguments.model, *given).to_dict("records")
    if arguments.json:
        say(json.dumps(rows, indent=2))
        return 0
    for prompt in dict.fromkeys(row["prompt"] for row in rows):
        say(repr(prompt))
        for row in rows:
            if row["prompt"] == prompt:
                say(f"  {row['strength']:<5g} {row['text']!r}")
    return 0


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def sweep(arguments: argparse.Namespace) -> int:
    """Measure effect and side effect over strengths."""
    measure = imported("trimtab.steer.lineas.on_disk:measure")
    files = {n: getattr(arguments, n) for n in ("source", "target", "neutral") if getattr(arguments, n)}
    files = {name: lab_folder("texts", value) for name, value in files.items()}
    given = (files, arguments.texts, arguments.strengths, arguments.budget, arguments.max_strength)
    curve, within = measure(arguments.steering, arguments.model, *given, arguments.columns)
    if arguments.json:
        from trimtab.runs.serialise import to_json

        measured = {"curve": curve.to_dict("records"), "strength_within_budget": within and within.strength}
        if within is not None:
            measured |= {"cost_within_budget": within.cost, "budget_reached": within.reached}
        say(to_json(measured, indent=2))
        return 0
    say(curve.to_string(index=False, float_format=lambda value: f"{value:.4f}", na_rep="-"))
    if within is not None:
        say(f"largest strength within {arguments.budget:g} nats: {within.strength:.3f}")
        if not within.reached:
            why = within.to_text().replace("max_strength", "--max-strength")
            note(f"Not all of the budget is used: {why}.")
    return 0


def fuse(arguments: argparse.Namespace) -> int:
    """Fold a steering into the weights of a checkpoint of its own."""
    write, out = imported("trimtab.steer.lineas.on_disk:fuse"), arguments.out
    write(arguments.steering, arguments.model, arguments.strength, out)
    if arguments.json:
        say(json.dumps({"folder": str(out), "strength": arguments.strength}))
    else:
        say(f"{out}: a plain checkpoint, read back and compared")
    return 0


def _numbers(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)):
        raise argparse.ArgumentTypeError(explain(f"{text!r:.60}", "numbers with commas between", "0,0.5,1"))
    return numbers


def _columns(text: str) -> Any:
    """The name of a layout, or a mapping in YAML."""
    from yaml import YAMLError

    from trimtab.runs.files import load_yaml

    try:
        return load_yaml(text)
    except YAMLError:
        return text


def _option(metavar: str, what: str = "", **settings: Any) -> dict[str, Any]:
    return {"metavar": metavar, "help": what or None, **settings}


_BOTH = {
    "steering": _option("STEERING", "a steering's folder, a run's folder or name, or a hub name"),
    "model": _option("MODEL", "the model it was fitted on"),
}
_TRY = _BOTH | {
    "prompts": _option("PROMPT", "texts to go on with", nargs="+"),
    "--chat": {"action": "store_true", "help": "prompts are what a user says: the model's chat template"},
    "--system-prompt": _option("TEXT", "the system's message before each; implies --chat"),
    "--strengths": _option("S,S,...", "in [0, 1]", type=_numbers, default=(0.0, 0.5, 1.0)),
    "--max-new-tokens": _option("N", "of each completion", type=int, default=32),
}
_SWEEP = _BOTH | {
    "--source": _option("FILE", "as it is: texts or chats that were not fitted with", required=True),
    "--target": _option("FILE", "the same, as it should be", required=True),
    "--neutral": _option("FILE", "texts or chats that should be left alone"),
    "--columns": _option("NAME", "sharegpt, alpaca, or {text: body}: the files' own keys", type=_columns),
    "--texts": _option("N", "of each file; 64", type=int, default=64),
    "--budget": _option("NATS", "KL on neutral text to stay within", type=float),
    "--max-strength": _option("S", "for the budget; above 1 maps are scaled up", type=float, default=1.0),
    "--strengths": _option("S,S,...", "in [0, 1]", type=_numbers, default=(0, 0.25, 0.5, 0.75, 1)),
}
_FUSE = _BOTH | {
    "--out": _option("DIR", "the folder of the checkpoint", type=path_named, required=True),
    "--strength": _option("S", "in [0, 1]", type=float, default=1.0),
}
_CONCEPT = {
    "hyper": _option("HYPER", "a hypernetwork's folder, or the folder or name of a run that fitted one"),
    "words": _option("WORDS", "the concept; or --image", nargs="?"),
    "--image": _option("FILE", "a picture that shows the concept"),
    "-o --out": _option("FOLDER", "the folder of the steering", type=path_named, required=True),
    "--strength": _option("S", "in [0, 1]; folded into the steering", type=float, default=1.0),
    "--model": _option("MODEL", "the generator, where it is not at the place of the fit", default=""),
    "--encoder": _option("MODEL", "the encoder, likewise", default=""),
}
_MAKE = "make a steering of a concept, in words or a picture, by a hypernetwork"
_MEASURE = "effect and side effect over strengths, on texts of yours"
_FOLD = "fold a steering into the weights of a checkpoint of its own"
ACTIONS: Mapping[str, tuple[Callable[[argparse.Namespace], int], str, str, Mapping[str, Any]]] = {
    "try": (try_out, "complete prompts at several strengths", "'I went to' --strengths 0,0.5,1", _TRY),
    "sweep": (sweep, _MEASURE, "--source rude.txt --target kind.txt", _SWEEP),
    "fuse": (fuse, _FOLD, "--out path/to/steered", _FUSE),
    "concept": (concept, _MAKE, "runs/my-hyper 'a red cross' -o red-cross", _CONCEPT),
}
"""What there is to do with a steering: by whom, what it is for, an example, and its options."""
