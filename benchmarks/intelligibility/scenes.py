"""The matrix of the quickstart as a result file: people, a captioner and its tuned self, two models and a rule.

trimtab run intelligibility/quickstart --out RUN
python benchmarks/intelligibility/scenes.py RUN     writes benchmarks/results/intelligibility/scenes.json
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from record import write

from trimtab.refer.intelligibility.result import Intelligibility


def main() -> None:
    result = Intelligibility.load(Path(sys.argv[1]))
    names = ("accuracy", "interactions", "controls", "captions", "matched", "calibration")
    body = {name: getattr(result, name).to_dict("records") for name in names}
    body |= {"p_at_1": result.p_at_1, "interaction": asdict(result.interaction), "seconds": result.seconds}
    keep = ("own", "control", "tune", "n_boot", "seed")
    write(
        "scenes",
        body,
        {key: result.config[key] for key in keep},
        "over items: Wilson of accuracies, bootstrap of the rest; one seed of tuning",
    )
    print(result.to_text())


if __name__ == "__main__":
    main()
