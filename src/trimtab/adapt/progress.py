"""Where a run stands: what a checkpoint holds of it beside the model, the optimiser and the data cursor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from trimtab.adapt.ledger import Ledger
from trimtab.errors import CheckpointError, explain
from trimtab.train.loop import StepStats

_KINDS: Mapping[str, tuple[type, ...]] = {
    "weights": (list, tuple),
    "ask_at": (int, type(None)),
    "stop": (str, type(None)),
    "best_change": (int, float),
    "ledger": (dict,),
}
"""Of fields whose default does not tell what they are read back as."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands, beside what the loop holds.

    Attributes:
        weights: the mixture now.
        ask_at: the step at which the mixer wants to be asked; None for never.
        state: the mixer's.
        best_step: the best checkpoint that kept all constraints; 0 (the base weights) while there is none.
        best_change: its mean change of the target losses, nats; 0 for the base weights.
        kept_once: whether any evaluated checkpoint kept all constraints.
        training_nll: summed negative log-likelihood of what was trained on since the mixer was last asked, in nats, by
            training domain.
        training_tokens: the loss-carrying tokens behind it.
        probed: whether the mixture has just been chosen by probes, which are too dear to lose.
        stop: why the run ends here; None while it goes on.
        offset: bytes of metrics.jsonl that belong to it.
        ledger: what it has cost.
    """

    weights: tuple[float, ...] = ()
    ask_at: int | None = 0
    state: Mapping[str, Any] = field(default_factory=dict)
    training_nll: Mapping[str, float] = field(default_factory=dict)
    training_tokens: Mapping[str, int] = field(default_factory=dict)
    best_step: int = 0
    best_change: float = 0.0
    kept_once: bool = False
    probed: bool = False
    stop: str | None = None
    offset: int = 0
    ledger: Ledger = field(default_factory=Ledger)

    @classmethod
    def read(cls, saved: Mapping[str, Any]) -> Progress:
        """The progress of a checkpoint.

        Raises:
            CheckpointError: a field is missing, unknown or of another kind.
        """
        try:
            ledger = Ledger(**_fields(Ledger, saved["ledger"]))
            return cls(**{**_fields(cls, saved), "weights": tuple(saved["weights"]), "ledger": ledger})
        except (KeyError, TypeError, AttributeError) as error:
            got = f"a progress that cannot be read ({error})"
            raise CheckpointError(explain(got, "that of a checkpoint")) from error

    @property
    def training_losses(self) -> dict[str, float]:
        """Mean loss of what was trained on since the mixer was last asked, nats per token, by domain drawn."""
        return {name: nll / self.training_tokens[name] for name, nll in self.training_nll.items()}

    def trained(self, stats: StepStats) -> Progress:
        """The progress after one more step."""
        nll, tokens = dict(self.training_nll), dict(self.training_tokens)
        for name, more in stats.nll.items():
            nll[name] = nll.get(name, 0.0) + more
            tokens[name] = tokens.get(name, 0) + stats.tokens[name]
        return replace(self, training_nll=nll, training_tokens=tokens)


def _fields(cls: type[Progress | Ledger], saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """The saved fields, each of the kind that it has in a fresh one."""
    for name, fresh in vars(cls()).items():
        value, kinds = saved.get(name, fresh), _KINDS.get(name, (type(fresh),))
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise TypeError(f"{name} is {value!r:.80}")
    return saved
