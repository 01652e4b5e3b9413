"""`trimtab cp`: a recipe of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trimtab.cli.console import parser, say
from trimtab.cli.jobs import check_folder
from trimtab.errors import ConfigProblems, Problem, nearest
from trimtab.runs.paths import as_path
from trimtab.systems import recipes


def main(argv: Sequence[str]) -> int:
    """Copy a recipe; an existing file is never overwritten."""
    options = parser("cp")
    options.add_argument("recipe", metavar="RECIPE", help="as `trimtab ls` names it")
    options.add_argument("target", metavar="TARGET.yaml", type=Path)
    arguments = options.parse_args(argv)
    shipped = recipes()
    if arguments.recipe not in shipped:
        near = nearest(arguments.recipe[:60], shipped) or "trimtab ls"
        raise ConfigProblems(
            [Problem("recipe", repr(arguments.recipe), f"one of {', '.join(shipped)}", near)]
        )
    target = as_path(arguments.target, "target", "a new file")
    check_folder(target.parent, "target")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(shipped[arguments.recipe].path.read_text(encoding="utf-8"))
    except FileExistsError:
        raise ConfigProblems(
            [Problem("target", f"{target}, which exists", "a new file", "another name")]
        ) from None
    say(str(target))
    return 0
