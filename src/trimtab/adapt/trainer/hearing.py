"""What the training passes of a trainer lost on each row, for mixers that read training losses."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import gather_object
from jaxtyping import Float, Int
from torch import Tensor, nn

from trimtab.adapt.trainer.run import HostedRun
from trimtab.data.tokens import NO_LOSS
from trimtab.errors import ConfigError, explain
from trimtab.train.evaluation import token_nll
from trimtab.train.loop import join_batches

Heard = dict[int, tuple[float, int]]
"""Place of a row in the global batch -> its nats and tokens."""


class Hearing:
    """Listens to the training passes of a model, until it is closed.

    Args:
        module: what is trained.
        run: knows which rows a pass is of.
    """

    def __init__(self, module: nn.Module, run: HostedRun) -> None:
        self.run = run
        self._parts: dict[int, Heard | None] = {}
        self._part = 0
        self._hook = module.register_forward_hook(self._hear, with_kwargs=True)

    def begin(self) -> None:
        """Begin with a step."""
        self._parts, self._part = {}, 0

    def go_on(self) -> None:
        """Go on to the next micro-batch of a step."""
        self._part += 1

    def close(self) -> None:
        """Listen no more."""
        self._hook.remove()

    def heard(self) -> Heard:
        """What was heard of a step, of all processes.

        Raises:
            ConfigError: outputs of the model say nothing of single rows.
        """
        mine = list[tuple[int, tuple[float, int]]]()
        for part in self._parts.values():
            if part is None:
                hint = "no padding_free and no Liger kernel, or a mixer that does not read training losses"
                got = "a model that returns neither logits nor log_probs of each row"
                raise ConfigError(explain(got, "one row of them for each", hint))
            mine += part.items()
        return dict(gather_object(mine) if self.run.loop.world > 1 else mine)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _hear(self, module: nn.Module, _: Any, __: Any, outputs: Any) -> None:
        """Take note of what a training pass lost on each of its rows, whose labels a trainer may keep to itself.

        A second pass over a micro-batch is not heard, nor one without gradients. An error waits for the end of the
        step: training may have been ended by one, and the hook be in a model that somebody else now trains.
        """
        if not (module.training and torch.is_grad_enabled()) or self._part in self._parts:
            return
        loop = self.run.loop
        size = loop.fit.micro_batch_size or 1
        first = (self._part * loop.world + loop.rank) * size
        rows = next(self.run.ahead())[first : first + size]
        if not rows:
            return
        labels = join_batches([loop.splits[name].batch([row]) for name, row in rows]).labels
        nll, tokens = nll_of_rows(outputs, labels), (labels[:, 1:] != NO_LOSS).sum(1)
        self._parts[self._part] = (
            None if nll is None else {first + k: (float(nll[k]), int(tokens[k])) for k in range(len(rows))}
        )


def nll_of_rows(outputs: Any, labels: Int[Tensor, "B T"]) -> Float[Tensor, " B"] | None:
    """Negative log-likelihood of each row of a batch in nats, from the outputs of a model.

    Args:
        outputs: with `logits` (B, T or more, V), or with `log_probs` (B, T - 1 or more) of the labels, as of the fused
            head that TRL's `SFTTrainer` trains with; 0 where a label carries no loss.
        labels: of the rows, -100 where they carry no loss.

    Returns:
        None for outputs that have neither, or another number of rows.

    >>> from types import SimpleNamespace
    >>> fused = SimpleNamespace(log_probs=torch.tensor([[0.0, -0.5, -1.5]]))
    >>> nll_of_rows(fused, torch.tensor([[7, -100, 8, 9]]))
    tensor([2.])
    """
    rows, width = labels.shape
    logits, log_probs = getattr(outputs, "logits", None), getattr(outputs, "log_probs", None)
    if isinstance(logits, Tensor) and len(logits) == rows and logits.shape[1] >= width:
        return token_nll(logits.detach()[:, :width], labels.to(logits.device)).sum(1)
    if isinstance(log_probs, Tensor) and len(log_probs) == rows and log_probs.shape[1] >= width - 1:
        return -log_probs.detach()[:, : width - 1].sum(1)
    return None
