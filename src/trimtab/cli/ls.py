"""`trimtab ls`: what there is to run."""

from __future__ import annotations

import json
from collections.abc import Sequence

from trimtab.cli.console import parser, say
from trimtab.systems import SYSTEMS, recipes


def main(argv: Sequence[str]) -> int:
    """List recipes and systems."""
    options = parser("ls")
    options.add_argument("--json", action="store_true", help="as JSON")
    if options.parse_args(argv).json:
        say(json.dumps(_listing(), indent=2))
        return 0
    shipped = recipes().values()
    width = max(len(recipe.name) for recipe in shipped) + 2
    say("recipes")
    for recipe in shipped:
        say(f"  {recipe.name:<{width}}{recipe.description}")
    say("systems")
    for system in SYSTEMS.values():
        say(f"  {system.name:<{width}}{system.title}; {system.paper}")
    return 0


def _listing() -> dict[str, list[dict[str, str]]]:
    return {
        "recipes": [{"name": each.name, "description": each.description} for each in recipes().values()],
        "systems": [
            {"name": each.name, "title": each.title, "paper": each.paper} for each in SYSTEMS.values()
        ],
    }
