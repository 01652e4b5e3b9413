"""Jacobian lens: each state carried to the last block by the mean Jacobian of all that lies between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trimtab.models.families import Handle, refusal
from trimtab.models.inspection import check_model
from trimtab.models.readout import readout_of, residual_states
from trimtab.read.lenses.affine import AffineLens
from trimtab.read.lenses.files import Maps, check_finite
from trimtab.read.lenses.lens import Progress, Reading, inputs_of, paired_images


@dataclass(frozen=True, eq=False)
class JacobianLens(AffineLens):
    """Jacobian lens: `log softmax(readout(J_l h + c_l))` of the state h at depth l, at the last token of a text.

    `J_l` is the mean over texts of the derivative of the last state by the state at depth l, both at the last token
    (Anthropic 2026). Our constant `c_l = mean h_L - J_l mean h_l` makes the mean state exact; the published lens has
    none, see `fit`. The last state is read as it is.

    Attributes:
        readout: final norm and unembedding of the model.
        weight: (L, d, d) the matrices J.
        bias: (L, d) the constants c; zero without correction of the mean.
        made_by: how it was fitted, plain values.
    """

    name: ClassVar[str] = "jacobian"

    @staticmethod
    def mapped(
        hidden: Float[Tensor, "*n d"], weight: Float[Tensor, "d d"], bias: Float[Tensor, " d"]
    ) -> Float[Tensor, "*n d"]:
        """J h + c."""
        return hidden @ weight.T + bias

    @classmethod
    def fit(
        cls,
        model: Handle,
        texts: Sequence[str],
        *,
        images: Any = None,
        centred: bool = True,
        block: int = 32,
        batch_size: int = 4,
        max_tokens: int | None = None,
        progress: Progress | None = None,
    ) -> JacobianLens:
        """Jacobian lens of a model, from texts that end where the lens will read: one forward pass a text.

        After it come d / `block` backward passes, each of which gives `block` rows of the Jacobians of all states. Held
        at once are `block` gradients of every state: `block * batch * tokens * (L + 1) * d` numbers, 0.3 GB for 30
        blocks of width 576 with the defaults and 32 tokens. About a hundred texts are enough.

        Args:
            model: a decoder, with or without eyes; its parameters get no gradient.
            texts: at least two, such as prompts.
            images: a picture for each text, for a model that sees.
            centred: correct the mean by a constant, which is closer to the model at the first depths and the last ones
                (benchmarks/lenses) and no further at the others; False is the published lens.
            block: rows of the Jacobian in one backward pass.
            batch_size: texts at a time.
            max_tokens: longer texts are cut, at their end; None refuses those beyond the model's limit.
            progress: called with how many texts are done, and of how many.

        Raises:
            ModelError: no decoder, quantised weights without a derivative, fewer than two texts, texts that it cannot
                read, or Jacobians that are not finite.
        """
        readout = readout_of(model)
        check_model(model, "gradients")
        if block < 1:
            raise refusal(block, "at least 1", at="block")
        reading = Reading(paired_images(texts, images), batch_size, max_tokens, last=True)
        total, count, means = None, 0, torch.zeros(len(readout.sites), readout.width)
        for keywords, valid in inputs_of(model, texts, reading):
            states = residual_states(model, readout, keywords, grad=True)
            last = valid.int().argmax(1)
            summed = _jacobians(states, last, block)
            total = summed if total is None else total + summed
            rows = torch.arange(len(last))
            means += torch.stack([one.detach().cpu()[rows, last.cpu()].float().sum(0) for one in states])
            count += len(last)
            if progress is not None:
                progress(count, len(texts))
        assert total is not None  # `inputs_of` refuses no texts
        weight, means = total / count, (means / count).to(total.device)
        bias = means[-1] - (weight @ means[:-1, :, None])[..., 0]
        made_by = {"texts": count, "centred": centred, "model": str(getattr(model, "name", ""))}
        maps = Maps(weight, bias if centred else torch.zeros_like(bias), made_by)
        check_finite(maps, "Jacobian lens")
        return cls(readout, maps.weight, maps.bias, made_by)


def _jacobians(
    states: Sequence[Float[Tensor, "B T d"]], last: Int[Tensor, " B"], block: int
) -> Float[Tensor, "L d d"]:
    """Sum over rows of d h_L / d h_l at each row's last token, for every l below L."""
    rows = torch.arange(len(last), device=last.device)
    end, before = states[-1][rows.to(states[-1].device), last.to(states[-1].device)], list(states[:-1])
    width = end.shape[-1]
    unit = torch.eye(width, device=end.device, dtype=end.dtype)
    parts = []
    for start in range(0, width, block):
        chosen = unit[start : start + block, None].expand(-1, len(end), -1)
        gradients = torch.autograd.grad(
            end, before, chosen, is_grads_batched=True, retain_graph=start + block < width
        )
        parts.append(torch.stack([_at(one, rows, last).float().sum(1) for one in gradients]))
    return torch.cat(parts, 1)


def _at(gradients: Float[Tensor, "n B T d"], rows: Tensor, last: Tensor) -> Float[Tensor, "n B d"]:
    device = gradients.device
    return gradients[:, rows.to(device), last.to(device)]
