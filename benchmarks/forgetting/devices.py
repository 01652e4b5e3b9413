"""The same runs on two devices: how far apart do they end?

    python benchmarks/forgetting/devices.py FOLDER OTHER      writes benchmarks/results/forgetting/devices.json

The two folders are those of `run.py --out`, one made with a GPU and one without, or parts of them; what both have is
compared. The base model is the same file in both.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
from record import write

from trimtab.runs.serialise import read_json


def ended(folder: Path) -> pd.DataFrame:
    """The runs in a folder that ended, by grid and name."""
    rows: list[dict[str, Any]] = []
    for file in sorted(folder.glob("*/*/cell.json")):
        cell = read_json(file)
        if cell["status"] == "done":
            rows.append({"grid": file.parts[-3], "run": file.parts[-2], **cell["result"]})
    return pd.DataFrame(rows).set_index(["grid", "run"])


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("folders", type=Path, nargs=2)
    one, other = (ended(folder) for folder in options.parse_args().folders)
    both = one.index.intersection(other.index)
    one, other = one.loc[both], other.loc[both]
    told: dict[str, Any] = {
        "runs": len(both),
        "grids": sorted(set(both.get_level_values("grid"))),
        "other step of the minimum": int((one["step"] != other["step"]).sum()),
        "largest difference, nats": {
            name: float((one[name] - other[name]).abs().max()) for name in ("loss_pt0", "loss_pt", "loss_ft")
        },
        "mean rise, nats": float((one["loss_pt"] - one["loss_pt0"]).mean()),
        "devices": [sorted(frame["device"].dropna().unique()) for frame in (one, other)],
    }
    write("devices", told, ("torch",))
    print(told)


if __name__ == "__main__":
    main()
