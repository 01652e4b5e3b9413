"""The documentation's page of results on a real language model, from the result files that there are.

python benchmarks/real/page.py [--write]                   prints it; --write puts it into docs/results
python benchmarks/real/page.py --dynamics FILE             with another result of dynamics.py, such as that of a trial
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dynamics_page
import steering_page

sys.path.append(str(Path(__file__).parents[1]))
from pages import joined, main, prose, read

from trimtab.runs.files import read_json

SECTIONS: Mapping[str, Callable[[Any], str]] = {
    "dynamics": dynamics_page.section,
    "steering": steering_page.section,
}
"""By the name of the result file in `benchmarks/results/real`; each gives "" where there is nothing to tell."""


def page(found: Mapping[str, Any]) -> str:
    """The page from results by name; None where one was not made."""
    sections = [told for name, section in SECTIONS.items() if (told := section(found.get(name)))]
    opening = prose(
        "This page is written by `python benchmarks/real/page.py --write` from the files in",
        "[benchmarks/results/real](../../benchmarks/results/real), which name commands, versions and settings.",
        "Numbers are those of the dequantised weights, not of the original ones.",
        "[ExpertLens](expertlens.md) and the [leak audit](leaks.md) on this model stand on pages of their own.",
    )
    return joined(["# Results: a real language model", opening, *sections])


def files() -> dict[str, Any]:
    """The result files by name."""
    return {name: read(f"real/{name}.json") for name in SECTIONS}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--dynamics", type=Path, help="a result file of dynamics.py")
    given = parser.parse_args()
    results = files()
    if given.dynamics:
        results["dynamics"] = read_json(given.dynamics, "a result of dynamics.py")
    main("real.md", page(results))
