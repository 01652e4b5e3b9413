"""Choice of a lens by its name, by the folder that it was saved to, or as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from trimtab.errors import nearest
from trimtab.models.families import Handle, refusal
from trimtab.read.lenses.files import kind_of
from trimtab.read.lenses.jacobian import JacobianLens
from trimtab.read.lenses.lens import Lens, LogitLens, Progress
from trimtab.read.lenses.tuned import TunedLens

NAMES = ("logit", "tuned", "jacobian")
"""Lenses that can be asked for by name."""
FOR_JACOBIAN = 100
"""Texts that a Jacobian lens is fitted to at most; more change it little."""


def lens_of(
    source: Lens | str | Path | None,
    model: Handle,
    texts: Sequence[str] = (),
    *,
    images: Any = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Lens:
    """Lens that a source names: read from a folder, or fitted to texts with the defaults.

    Args:
        source: "logit" or None; "tuned" or "jacobian", fitted to `texts`; a folder that a lens was saved to; or a
            lens, which is returned as it is.
        model: what the lens is to read.
        texts: to fit to; the Jacobian lens takes the first hundred.
        images: a picture for each text, for a model that sees.
        seed: of the fit.
        progress: of the fit.

    Raises:
        ModelError: neither a name nor a lens of this model, or a name without texts to fit to.
    """
    if source is None or source == "logit":
        return LogitLens(model)
    if not isinstance(source, str | Path):
        states = len(LogitLens(model).readout.sites)
        if getattr(cast("Any", source), "states", None) != states:
            got = f"a {type(source).__name__} for another depth"
            raise refusal(got, f"a lens of {states} states, as the model has", "TunedLens.fit(model, texts)")
        return source
    if source in NAMES and not len(texts):
        expected = "texts to fit it to, or the folder of a lens"
        raise refusal(
            f"the lens {source!r} alone", expected, "texts of the kind that the model is asked about"
        )
    if source == "tuned":
        return TunedLens.fit(model, texts, images=images, seed=seed, progress=progress)
    if source == "jacobian":
        few = None if images is None else list(images)[:FOR_JACOBIAN]
        return JacobianLens.fit(model, texts[:FOR_JACOBIAN], images=few, progress=progress)
    if isinstance(source, str) and "/" not in source and not Path(source).exists():
        expected = f"one of {NAMES}, or the folder of a lens"
        raise refusal(f"the lens {source!r}", expected, nearest(source, NAMES))
    kind = kind_of(source)
    if kind == "tuned":
        return TunedLens.from_pretrained(source, model)
    if kind == "jacobian":
        return JacobianLens.from_pretrained(source, model)
    raise refusal(f"a {kind!r} lens in {source}", f"one of {NAMES[1:]}", "another version of trimtab")
