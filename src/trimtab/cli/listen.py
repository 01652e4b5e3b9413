"""`trimtab listen`: a page on which people choose pictures by captions, and their answers read back."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trimtab.cli.console import note, parser, path_named, say
from trimtab.cli.jobs import check_folder
from trimtab.errors import ConfigProblems, Problem
from trimtab.runs.paths import as_path, missing_source
from trimtab.systems import imported, lab_folder

_TASK = "trimtab.refer.intelligibility.task"
_OF_PAGES = ("candidates", "candidates_per_item", "seed", "once", "title", "question")


def listen(argv: Sequence[str]) -> int:
    """Write a task page, or read the answers of people back into a table of choices."""
    options = parser("listen", as_json=True)
    options.add_argument("pictures", metavar="PICTURES", nargs="?", help="a folder of pictures")
    options.add_argument(
        "captions",
        metavar="CAPTIONS",
        nargs="*",
        help="tables of item and caption, one for each speaker, who is called as the file is",
    )
    options.add_argument(
        "-o", "--out", type=path_named, metavar="PATH", help="the task's folder; of choices a .csv"
    )
    options.add_argument(
        "--candidates", metavar="FILE", help="item, candidates and target; random if not given"
    )
    options.add_argument("--candidates-per-item", type=int, metavar="N", help="pictures in a random set; 9")
    options.add_argument("--seed", type=int, metavar="N", help="of sets and orders; 0")
    options.add_argument(
        "--once", action="store_true", default=None, help="one caption of each item per person"
    )
    options.add_argument("--title", metavar="TEXT", help="heading of the page")
    options.add_argument("--question", metavar="TEXT", help="what stands above each caption")
    options.add_argument("--read", metavar="ANSWERS", nargs="+", help="files that people sent")
    options.add_argument("--task", type=path_named, metavar="DIR", help="with --read: the task's folder")
    arguments = options.parse_args(argv)
    if problems := list(problems_of(arguments)):
        raise ConfigProblems(problems)
    return _read(arguments) if arguments.read else _write(arguments)


def problems_of(arguments: Namespace) -> Iterator[Problem]:
    """Problems that show before a picture is read: arguments that are missing or do not go together."""
    if arguments.out is None:
        yield Problem("-o", "nothing", "where to write", "-o choices.csv" if arguments.read else "-o task")
    if arguments.read:
        given = [name for name in ("pictures", *_OF_PAGES) if getattr(arguments, name) is not None]
        if given:
            name = given[0].upper() if given[0] == "pictures" else f"--{given[0].replace('_', '-')}"
            yield Problem(name, "it together with --read", "one of them: the task's folder knows the rest")
        if arguments.task is None:
            yield Problem("--task", "nothing", "the folder that trimtab listen wrote", "--task task")
        for file in arguments.read:
            yield from missing_source("--read", file, "a file of answers", folders=False)
        return
    if arguments.task is not None:
        yield Problem("--task", "it without --read", "--read ANSWERS --task DIR")
    if arguments.pictures is None:
        yield Problem("PICTURES", "nothing", "a folder of pictures, then captions", "trimtab listen --help")
    elif not arguments.captions:
        yield Problem("CAPTIONS", "nothing", "at least one table of item and caption")
    for file in arguments.captions:
        yield from missing_source("CAPTIONS", file, "a table of item and caption", folders=False)
    if arguments.candidates is not None:
        yield from missing_source(
            "--candidates", arguments.candidates, "a table of candidates", folders=False
        )
        if arguments.candidates_per_item is not None:
            yield Problem("--candidates-per-item", "it together with --candidates", "one of them")
    if arguments.candidates_per_item is not None and arguments.candidates_per_item < 2:
        yield Problem("--candidates-per-item", str(arguments.candidates_per_item), "at least 2")


def speakers_of(files: Sequence[str]) -> dict[str, str]:
    """Speaker -> captions file; speakers are called as their files are, without the ending.

    Raises:
        ConfigProblems: two files of one name.

    >>> speakers_of(["runs/people.csv", "captioner.jsonl.gz"])
    {'people': 'runs/people.csv', 'captioner': 'captioner.jsonl.gz'}
    >>> speakers_of(["lab:scenes-captions"])
    {'scenes-captions': 'lab:scenes-captions'}
    """
    named: dict[str, str] = {}
    for file in files:
        whole = Path(file.removeprefix("lab:")).name
        name = whole.removesuffix(".gz").rpartition(".")[0] or whole
        if name in named:
            raise ConfigProblems(
                [Problem("CAPTIONS", f"two speakers {name!r}", "a file name for each speaker")]
            )
        named[name] = file
    return named


def _write(arguments: Namespace) -> int:
    speakers, folder = speakers_of(arguments.captions), check_folder(arguments.out, "-o").absolute()
    given: dict[str, Any] = {name: getattr(arguments, name) for name in _OF_PAGES}
    settings = {name: value for name, value in given.items() if value is not None}
    speakers = {name: lab_folder("table", file) for name, file in speakers.items()}
    if "candidates" in settings:
        settings["candidates"] = lab_folder("table", settings["candidates"])
    shown_here = lab_folder("pictures", arguments.pictures)
    pictures = imported("trimtab.data.pictures:read_pictures")(shown_here, "PICTURES")
    task = imported(f"{_TASK}:make_task")(pictures, speakers, **settings)
    imported(f"{_TASK}:write_task")(task, pictures, folder)
    shown, sizes = arguments.out, sorted({len(trial.candidates) for trial in task.trials})
    if arguments.json:
        facts = {"task": str(shown), "page": str(shown / "page"), "fingerprint": task.fingerprint}
        counts = {"captions": len(task.trials), "speakers": task.speakers, "pictures": len(task.pictures)}
        say(json.dumps({**facts, **counts, "candidates": sizes}, indent=1))
        return 0
    many = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    what = f"{len(task.trials)} captions of {', '.join(task.speakers)}"
    say(
        f"{shown / 'page'}: {what}, each among {many} pictures. Hand out this folder; people open index.html."
    )
    say(f"{shown / 'key.json'}: which picture is which. Keep it, and hand it to nobody.")
    say(f"Read answers back: trimtab listen --read answers.csv --task {shown} -o choices.csv")
    return 0


def _read(arguments: Namespace) -> int:
    task = imported(f"{_TASK}:read_task")(as_path(arguments.task, "--task", "the folder of a task"))
    files = [as_path(file, "--read", "a file of answers") for file in arguments.read]
    out = as_path(arguments.out, "-o", "a .csv file")
    if out.suffix.lower() != ".csv" or out.is_dir():
        raise ConfigProblems([Problem("-o", f"{str(arguments.out)!r}", "a .csv file", "-o choices.csv")])
    if any(out.exists() and out.samefile(file) for file in files):
        raise ConfigProblems([Problem("-o", f"{str(arguments.out)!r}, which is read", "another file")])
    check_folder(out.parent, "-o")
    answers = imported("trimtab.refer.intelligibility.answer_files:read_answers")(files, task)
    imported("trimtab.runs.atomic:write_atomic")(out, answers.choices.to_csv(index=False))
    answered, asked = answers.answered, answers.asked
    if arguments.json:
        people = {who: {"answered": n, "asked": asked[who]} for who, n in answered.items()}
        say(
            json.dumps(
                {"choices": str(arguments.out), "listeners": people, "repeated": answers.repeated}, indent=1
            )
        )
        return 0
    total = f"{sum(answered.values())} answers to {sum(asked.values())} captions"
    say(f"{arguments.out}: {total}, of {len(answered)} people")
    for who, n in answered.items():
        say(f"  {who}: {n} of {asked[who]}" + ("" if n == asked[who] else ", stopped early"))
    if answers.repeated:
        note(f"{answers.repeated} answers were in several files alike and count once.\n")
    return 0
