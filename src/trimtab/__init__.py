"""trimtab: change open-weight generative models on purpose, and show what you did not change."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.adapt.aioli import Aioli as Aioli
    from trimtab.adapt.alignment import GradientAlignment as GradientAlignment
    from trimtab.adapt.bandit import Exp3 as Exp3
    from trimtab.adapt.dynamics import DynaMiCS as DynaMiCS
    from trimtab.adapt.finetune import finetune as finetune
    from trimtab.adapt.forgetting import FinetuningLaw as FinetuningLaw
    from trimtab.adapt.forgetting import ForgettingLaw as ForgettingLaw
    from trimtab.adapt.gaps import DualAscent as DualAscent
    from trimtab.adapt.gaps import Feedback as Feedback
    from trimtab.adapt.gaps import ReferenceLoss as ReferenceLoss
    from trimtab.adapt.mixers import EarlyStoppedTarget as EarlyStoppedTarget
    from trimtab.adapt.mixers import Fixed as Fixed
    from trimtab.adapt.mixers import Proportional as Proportional
    from trimtab.adapt.mixers import Replay as Replay
    from trimtab.adapt.mixers import Uniform as Uniform
    from trimtab.adapt.result import FinetuneResult as FinetuneResult
    from trimtab.data.concepts import ConceptSet as ConceptSet
    from trimtab.data.domains import Domain as Domain
    from trimtab.data.naming import NamingCounts as NamingCounts
    from trimtab.models.load import Model as Model
    from trimtab.models.load import load as load
    from trimtab.read.experts import ExpertLens as ExpertLens
    from trimtab.refer.bias import naming_bias as naming_bias
    from trimtab.refer.lexicon import Lexicon as Lexicon
    from trimtab.steer.damping import AurA as AurA
    from trimtab.steer.directions import CAA as CAA
    from trimtab.steer.directions import ITI as ITI
    from trimtab.steer.lineas import LinEAS as LinEAS
    from trimtab.steer.steering import Steering as Steering
    from trimtab.steer.transported import GaussianAcT as GaussianAcT
    from trimtab.steer.transported import LinAcT as LinAcT
    from trimtab.steer.transported import MeanAcT as MeanAcT
    from trimtab.train.fit import Fit as Fit

__version__ = "0.1.0"

_HOMES = {
    "Aioli": "trimtab.adapt.aioli",
    "AurA": "trimtab.steer.damping",
    "CAA": "trimtab.steer.directions",
    "ConceptSet": "trimtab.data.concepts",
    "Domain": "trimtab.data.domains",
    "DualAscent": "trimtab.adapt.gaps",
    "DynaMiCS": "trimtab.adapt.dynamics",
    "EarlyStoppedTarget": "trimtab.adapt.mixers",
    "Exp3": "trimtab.adapt.bandit",
    "ExpertLens": "trimtab.read.experts",
    "Feedback": "trimtab.adapt.gaps",
    "FinetuneResult": "trimtab.adapt.result",
    "FinetuningLaw": "trimtab.adapt.forgetting",
    "Fit": "trimtab.train.fit",
    "Fixed": "trimtab.adapt.mixers",
    "ForgettingLaw": "trimtab.adapt.forgetting",
    "GaussianAcT": "trimtab.steer.transported",
    "GradientAlignment": "trimtab.adapt.alignment",
    "ITI": "trimtab.steer.directions",
    "Lexicon": "trimtab.refer.lexicon",
    "LinAcT": "trimtab.steer.transported",
    "LinEAS": "trimtab.steer.lineas",
    "MeanAcT": "trimtab.steer.transported",
    "Model": "trimtab.models.load",
    "NamingCounts": "trimtab.data.naming",
    "Proportional": "trimtab.adapt.mixers",
    "ReferenceLoss": "trimtab.adapt.gaps",
    "Replay": "trimtab.adapt.mixers",
    "Steering": "trimtab.steer.steering",
    "Uniform": "trimtab.adapt.mixers",
    "finetune": "trimtab.adapt.finetune",
    "load": "trimtab.models.load",
    "naming_bias": "trimtab.refer.bias",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562), so that `import trimtab` stays instant."""
    if name not in _HOMES:
        raise AttributeError(f"module 'trimtab' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
