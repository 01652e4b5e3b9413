"""trimtab: change open-weight generative models on purpose, and show what you did not change."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.adapt.compare.compare import compare as compare
    from trimtab.adapt.dynamics.mixer import DynaMiCS as DynaMiCS
    from trimtab.adapt.dynamics.result import FinetuneResult as FinetuneResult
    from trimtab.adapt.finetune import finetune as finetune
    from trimtab.adapt.forgetting.laws import FinetuningLaw as FinetuningLaw
    from trimtab.adapt.forgetting.laws import ForgettingLaw as ForgettingLaw
    from trimtab.adapt.mixers.controllers import DualAscent as DualAscent
    from trimtab.adapt.mixers.controllers import Feedback as Feedback
    from trimtab.adapt.mixers.controllers import ReferenceLoss as ReferenceLoss
    from trimtab.adapt.mixers.fixed import EarlyStoppedTarget as EarlyStoppedTarget
    from trimtab.adapt.mixers.fixed import Fixed as Fixed
    from trimtab.adapt.mixers.fixed import Proportional as Proportional
    from trimtab.adapt.mixers.fixed import Replay as Replay
    from trimtab.adapt.mixers.fixed import Uniform as Uniform
    from trimtab.adapt.mixers.published import Aioli as Aioli
    from trimtab.adapt.mixers.published import Exp3 as Exp3
    from trimtab.adapt.mixers.published import GradientAlignment as GradientAlignment
    from trimtab.adapt.trainer.mixture import TrainerMixture as TrainerMixture
    from trimtab.data.concepts import ConceptSet as ConceptSet
    from trimtab.data.domains import Domain as Domain
    from trimtab.data.naming import NamingCounts as NamingCounts
    from trimtab.models.load import Model as Model
    from trimtab.models.load import load as load
    from trimtab.read.experts.lens import ExpertLens as ExpertLens
    from trimtab.read.leaks.audit import audit as audit
    from trimtab.read.leaks.levels import Answer as Answer
    from trimtab.read.leaks.levels import Hidden as Hidden
    from trimtab.read.leaks.levels import TopLogits as TopLogits
    from trimtab.read.leaks.levels import TopLogprobs as TopLogprobs
    from trimtab.read.leaks.levels import Trajectory as Trajectory
    from trimtab.read.leaks.transcript import audit_transcript as audit_transcript
    from trimtab.read.lenses.jacobian import JacobianLens as JacobianLens
    from trimtab.read.lenses.lens import LogitLens as LogitLens
    from trimtab.read.lenses.tuned import TunedLens as TunedLens
    from trimtab.refer.bias.audit import naming_bias as naming_bias
    from trimtab.refer.candidates import hard_candidates as hard_candidates
    from trimtab.refer.captions.discritune import DiscriTune as DiscriTune
    from trimtab.refer.captions.listener import Listener as Listener
    from trimtab.refer.captions.rewards import ListenerReward as ListenerReward
    from trimtab.refer.intelligibility.study import intelligibility as intelligibility
    from trimtab.refer.lexicon.lexicon import Lexicon as Lexicon
    from trimtab.refer.scores.scores import caption_scores as caption_scores
    from trimtab.steer.directions import CAA as CAA
    from trimtab.steer.directions import ITI as ITI
    from trimtab.steer.estimators import AurA as AurA
    from trimtab.steer.estimators import GaussianAcT as GaussianAcT
    from trimtab.steer.estimators import LinAcT as LinAcT
    from trimtab.steer.estimators import MeanAcT as MeanAcT
    from trimtab.steer.hypertransport.hypertransport import HyperTransport as HyperTransport
    from trimtab.steer.lineas.lineas import LinEAS as LinEAS
    from trimtab.steer.steering import Steering as Steering
    from trimtab.train.settings import Fit as Fit

__version__ = "0.1.0"

_HOMES = {
    "Aioli": "trimtab.adapt.mixers.published",
    "Answer": "trimtab.read.leaks.levels",
    "AurA": "trimtab.steer.estimators",
    "CAA": "trimtab.steer.directions",
    "ConceptSet": "trimtab.data.concepts",
    "DiscriTune": "trimtab.refer.captions.discritune",
    "Domain": "trimtab.data.domains",
    "DualAscent": "trimtab.adapt.mixers.controllers",
    "DynaMiCS": "trimtab.adapt.dynamics.mixer",
    "EarlyStoppedTarget": "trimtab.adapt.mixers.fixed",
    "Exp3": "trimtab.adapt.mixers.published",
    "ExpertLens": "trimtab.read.experts.lens",
    "Feedback": "trimtab.adapt.mixers.controllers",
    "FinetuneResult": "trimtab.adapt.dynamics.result",
    "FinetuningLaw": "trimtab.adapt.forgetting.laws",
    "Fit": "trimtab.train.settings",
    "Fixed": "trimtab.adapt.mixers.fixed",
    "ForgettingLaw": "trimtab.adapt.forgetting.laws",
    "GaussianAcT": "trimtab.steer.estimators",
    "GradientAlignment": "trimtab.adapt.mixers.published",
    "Hidden": "trimtab.read.leaks.levels",
    "HyperTransport": "trimtab.steer.hypertransport.hypertransport",
    "ITI": "trimtab.steer.directions",
    "JacobianLens": "trimtab.read.lenses.jacobian",
    "Lexicon": "trimtab.refer.lexicon.lexicon",
    "LinAcT": "trimtab.steer.estimators",
    "LinEAS": "trimtab.steer.lineas.lineas",
    "Listener": "trimtab.refer.captions.listener",
    "ListenerReward": "trimtab.refer.captions.rewards",
    "LogitLens": "trimtab.read.lenses.lens",
    "MeanAcT": "trimtab.steer.estimators",
    "Model": "trimtab.models.load",
    "NamingCounts": "trimtab.data.naming",
    "Proportional": "trimtab.adapt.mixers.fixed",
    "ReferenceLoss": "trimtab.adapt.mixers.controllers",
    "Replay": "trimtab.adapt.mixers.fixed",
    "Steering": "trimtab.steer.steering",
    "TopLogits": "trimtab.read.leaks.levels",
    "TopLogprobs": "trimtab.read.leaks.levels",
    "TrainerMixture": "trimtab.adapt.trainer.mixture",
    "Trajectory": "trimtab.read.leaks.levels",
    "TunedLens": "trimtab.read.lenses.tuned",
    "Uniform": "trimtab.adapt.mixers.fixed",
    "audit": "trimtab.read.leaks.audit",
    "audit_transcript": "trimtab.read.leaks.transcript",
    "caption_scores": "trimtab.refer.scores.scores",
    "compare": "trimtab.adapt.compare.compare",
    "finetune": "trimtab.adapt.finetune",
    "hard_candidates": "trimtab.refer.candidates",
    "intelligibility": "trimtab.refer.intelligibility.study",
    "load": "trimtab.models.load",
    "naming_bias": "trimtab.refer.bias.audit",
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
