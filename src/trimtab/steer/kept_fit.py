"""A fit that a kill cannot lose: where it stands, in a folder, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.errors import CheckpointError
from trimtab.runs.plain import differences
from trimtab.steer.descent import State
from trimtab.train.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from trimtab.train.snapshot import Snapshot


@dataclass(frozen=True)
class KeptFit:
    """Checkpoints of one fit.

    Attributes:
        folder: where they are; None keeps nothing.
        identity: settings, sites and fingerprints of examples and model, JSON values: what makes it this fit.
        every: steps between checkpoints.
    """

    folder: Path | None
    identity: Mapping[str, Any]
    every: int = 50

    def last(self) -> tuple[State, list[float]] | None:
        """The newest state and the losses up to it; None where there is none.

        Raises:
            CheckpointError: the folder holds another fit (what differs is named), or is damaged.
        """
        found = checkpoints(self.folder) if self.folder is not None else []
        if not found:
            return None
        snapshot, extra = load_checkpoint(found[-1])
        changes = [
            f"{key} (was {was!r}, now {now!r})"
            for key, was, now in differences(extra["identity"], dict(self.identity))
        ]
        if changes:
            raise CheckpointError(
                f"{self.folder} holds another fit: {'; '.join(changes)}; try another folder, or the same settings"
            )
        moments = snapshot.moments
        mean, square = ({site: moments[site][key] for site in moments} for key in ("mean", "square"))
        return State(snapshot.step, dict(snapshot.parameters), mean, square), list(extra["losses"])

    def save(self, state: State, losses: list[float], *, final: bool = False) -> None:
        """Keep a state, every so many steps and at the end.

        Raises:
            CheckpointError: the disk is full; what was kept before is intact.
        """
        if self.folder is None or (state.step % self.every and not final):
            return
        moments = {site: {"mean": state.mean[site], "square": state.square[site]} for site in state.point}
        snapshot = Snapshot(state.step, state.point, moments, stream={}, rng={})
        save_checkpoint(self.folder, snapshot, {"identity": dict(self.identity), "losses": losses})
