"""People and models in repeated reference games over twelve tangrams: who understands whom, and when?

    python benchmarks/intelligibility/tangrams.py DATA     writes benchmarks/results/intelligibility/tangrams.json

DATA holds `tangrams/messages.csv.gz`, `choices.csv.gz`, `readers.csv.gz` and `vlm_choices.csv.gz`: messages of people
in games, choices of the people of the game (with its history) and of readers without history, and log-probabilities of
two vision-language models. Intervals are clustered by game. No neural speaker is in this set, so there is no
interaction to measure. The fair neighbour of a model without history is the reader without history. `backward` and
`no_context` answers of models come from different runs: their difference is not the effect of history alone.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
from record import write

from trimtab import intelligibility
from trimtab.data.tables import read_table
from trimtab.refer.intelligibility.result import Intelligibility

LETTERS = list("ABCDEFGHIJKL")
N_BOOT = 2000
QWEN, GEMMA = "Qwen2.5-VL-32B-Instruct", "gemma-3-27b-it"
ANCHORS = {
    "first": 0.805,
    "last": 0.953,
    "expt1": 0.622,
    "expt2": 0.556,
    "expt3": 0.589,
    QWEN: 0.242,
    GEMMA: 0.192,
}
"""What the data's page says: people in the game in blocks 0 and 5, readers by experiment, models without history."""


def tables(data: Path) -> dict[str, pd.DataFrame]:
    names = ("messages", "choices", "readers", "vlm_choices")
    found = {name: read_table(data / "tangrams" / f"{name}.csv.gz") for name in names}
    for name, frame in found.items():
        if name != "readers":
            found[name] = frame.assign(item=frame["game_id"] + " " + frame["trial"].astype(str))
    return found


def sets_of(items: pd.DataFrame) -> pd.DataFrame:
    """Every item has the same twelve candidates."""
    once = items[["item", "target"]].drop_duplicates("item").reset_index(drop=True)
    return once.assign(candidates=[LETTERS] * len(once))


def captions(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    said = frame[frame["message"].notna() & (frame["message"] != "")]
    return said.rename(columns={"message": "caption"})[
        ["item", "caption", "game_id", *columns]
    ].drop_duplicates("item")


def in_the_game(found: dict[str, pd.DataFrame], n_boot: int) -> tuple[Intelligibility, Intelligibility]:
    """People of the game: all messages by block, and those of the first and of the last block as two speakers."""
    messages, choices = found["messages"], found["choices"]
    messages = messages[messages["study"].astype(str) != "3"]
    items = pd.concat([choices, messages])
    record = choices[["item", "choice", "listener_id", "repetition"]]
    common: dict[str, Any] = {
        "candidates": sets_of(items),
        "group": "game_id",
        "missing": "drop",
        "n_boot": n_boot,
    }
    by_block = intelligibility(
        {"people": captions(messages, "repetition")},
        {"people of the game": record},
        strata=["repetition", "length"],
        **common,
    )
    speakers = {f"block {block}": captions(messages[messages["repetition"] == block]) for block in (0, 5)}
    both = record[record["repetition"].isin([0, 5])]
    both = both.assign(speaker="block " + both["repetition"].astype(str))
    return by_block, intelligibility(speakers, {"people of the game": both}, strata=["length"], **common)


def every_choice(found: dict[str, pd.DataFrame], n_boot: int) -> pd.DataFrame:
    """Accuracy by block of all rows of choices, those without a message included, as the data's page counts them."""
    choices = found["choices"]
    items = choices.drop_duplicates("item")
    told = intelligibility(
        {"people": dict.fromkeys(items["item"], "(any)")},
        {"people of the game": choices[["item", "choice", "listener_id", "game_id", "repetition"]]},
        sets_of(items),
        group="game_id",
        strata=["repetition"],
        n_boot=n_boot,
    )
    return told.strata


def readers(found: dict[str, pd.DataFrame], n_boot: int) -> Intelligibility:
    """Readers who were not in the game, by experiment: each message is an item."""
    frame = found["readers"]
    keys = ["experiment", "game_id", "target", "message", "repetition"]
    frame = frame.assign(item="m" + frame.groupby(keys, dropna=False, sort=False).ngroup().astype(str))
    return intelligibility(
        {"people": captions(frame)},
        {"readers": frame[["item", "choice", "reader_id", "experiment"]]},
        sets_of(frame),
        group="game_id",
        strata=["experiment", "length"],
        missing="drop",
        n_boot=n_boot,
    )


def models(found: dict[str, pd.DataFrame], n_boot: int) -> dict[str, Intelligibility]:
    """Both models in both conditions, beside the people of the same games where their choices are known."""
    frame = found["vlm_choices"].rename(columns={f"lp_{letter}": letter for letter in LETTERS})
    results = {}
    for condition, part in frame.groupby("condition", sort=False):
        records = {
            str(model): rows[["item", "history", "repetition", *LETTERS]]
            for model, rows in part.groupby("model", sort=False)
        }
        results[str(condition)] = intelligibility(
            {"people": captions(part)},
            records,
            sets_of(part),
            group="game_id",
            strata=["length", "repetition"],
            missing="drop",
            n_boot=n_boot,
        )
    return results


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return frame.to_dict("records")


def study(result: Intelligibility) -> dict[str, Any]:
    parts = {
        name: getattr(result, name) for name in ("accuracy", "controls", "strata", "captions", "matched")
    }
    parts |= {name: getattr(result, name) for name in ("calibration", "reliability")}
    told: dict[str, Any] = {name: rows_of(frame) for name, frame in parts.items() if len(frame)}
    return told | {"interaction": result.interaction.reason, "notes": list(result.notes)}


def anchors(blocks: pd.DataFrame, read: Intelligibility, alone: Intelligibility) -> list[dict[str, Any]]:
    """What the data's page says beside what comes out."""
    at = dict(zip(blocks["stratum"], blocks["accuracy"], strict=True))
    found = {"first": at["0"], "last": at["5"]}
    by = read.strata[read.strata["by"] == "experiment"]
    found |= dict(zip(by["stratum"], by["accuracy"], strict=True))
    found |= dict(zip(alone.accuracy["listener"], alone.accuracy["accuracy"], strict=True))
    return [
        {"anchor": name, "published": value, "found": found[name], "agrees": abs(found[name] - value) < 6e-4}
        for name, value in ANCHORS.items()
    ]


def main() -> None:
    found = tables(Path(sys.argv[1]))
    blocks = every_choice(found, N_BOOT)
    by_block, first_and_last = in_the_game(found, N_BOOT)
    read, of_models = readers(found, N_BOOT), models(found, N_BOOT)
    checked = anchors(blocks, read, of_models["no_context"])
    body = {
        "anchors": checked,
        "people_of_the_game_by_block": rows_of(blocks),
        "people_of_the_game": study(by_block),
        "first_and_last_block": study(first_and_last),
        "readers": study(read),
        **{f"models_{name}": study(one) for name, one in of_models.items()},
    }
    write(
        "tangrams",
        body,
        {"n_boot": N_BOOT, "confidence": 0.95, "seed": 0},
        "over games: Wilson of accuracies, bootstrap of the rest",
    )
    for row in checked:
        print(row)


if __name__ == "__main__":
    main()
