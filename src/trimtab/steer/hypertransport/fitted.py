"""Fitted hypernetwork: steerings of words and pictures in one forward pass, how new a concept is, and its files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from
from safetensors.torch import save as bytes_of
from torch import Tensor, nn

from trimtab.errors import CheckpointError, DataError, ModelError, explain
from trimtab.models.devices import device_of
from trimtab.models.folder import folder_for
from trimtab.models.load import Model
from trimtab.models.sites import Site, modules_of, network_of, resolve
from trimtab.models.tokenizer import first_line
from trimtab.runs.atomic import atomic_directory
from trimtab.runs.brief import one_line
from trimtab.runs.environment import versions
from trimtab.runs.files import read_bytes
from trimtab.runs.serialise import read_object, to_json
from trimtab.steer.hypertransport.conditions import Condition, Conditions, Encoder, encoder_of
from trimtab.steer.hypertransport.network import HyperNetwork, Sizes
from trimtab.steer.maps import Base
from trimtab.steer.samples import Scale
from trimtab.steer.steering import Steering

USUAL = 0.95
"""Share of training concepts that are less new to the others than the novelty that counts as usual."""


def base_of(model: Model | nn.Module, sites: Iterable[str]) -> Base:
    """Base of a whole model: fingerprints of its parts, and of its modules at the sites."""
    parts = [Site(path) for path in modules_of(network_of(model)) if "." not in path]
    return Base.of(model, [*parts, *map(Site.parse, sites)])


def encoder_fingerprint(encoder: Encoder) -> str:
    """16 hex digits that change when the weights of an encoder do, the same in float32 and bfloat16."""
    parts = base_of(encoder.model, ()).fingerprints
    return hashlib.sha256(repr(sorted(parts.items())).encode()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class FittedHyperTransport:
    """Fitted hypernetwork: call it with words or pictures for a `trimtab.Steering`.

    Attributes:
        network: with the averaged weights of training; float32.
        scales: site name -> the scale in which its coordinates count.
        conditions: the encoder and the centres of its embeddings.
        concepts: names of the training concepts.
        embeddings: (n, e) unit embeddings of them.
        base: the generator.
        settings: of the fit, plain values.
        losses: of each step, before it.
    """

    network: HyperNetwork
    scales: Mapping[str, Scale]
    conditions: Conditions
    concepts: tuple[str, ...]
    embeddings: Float[Tensor, "n e"]
    base: Base
    settings: Mapping[str, Any]
    losses: tuple[float, ...] = ()

    def __repr__(self) -> str:
        sites = f"{len(self.scales)} site{'s' * (len(self.scales) != 1)}"
        facts = (f"{len(self.concepts)} concepts", sites, f"encoder {self.conditions.encoder.name!r}")
        return one_line("FittedHyperTransport", *facts, f"of {Path(self.base.name).name!r}")

    def __call__(self, concept: Condition) -> Steering:
        """Steering of a concept: words, a picture (an image, or a Path), or a list of examples to average.

        Its `made_by` says the concept, its novelty, the nearest training concept and the usual novelty; and `unheard`,
        the words that the encoder does not know, where there are any.

        Raises:
            DataError: nothing, blank words, half a character, or words beside pictures.
            ModelError: a picture that the encoder cannot read, or a text of which it knows no word.
        """
        return self.many([concept])[0]

    def many(self, concepts: Sequence[Condition]) -> list[Steering]:
        """Steerings of several concepts, in one forward pass.

        Raises:
            DataError, ModelError: as for one; and what is no list, or an empty one.
        """
        given: Any = concepts
        if not isinstance(given, list | tuple) or not given:
            kind = "one string" if isinstance(given, str) else f"a {type(given).__name__}"
            got = "no concept" if isinstance(given, list | tuple) else kind
            raise DataError(f"concepts: {explain(got, 'a list of concepts', '[...]')}")
        made = self.of_embeddings([self.embedding(one) for one in given], [_said(one) for one in given])
        unheard = [self.conditions.unheard(one) for one in given]
        return [
            replace(one, made_by={**one.made_by, "unheard": words}) if words else one
            for one, words in zip(made, unheard, strict=True)
        ]

    def of_embeddings(self, embeddings: Sequence[Float[Tensor, " e"]], said: Sequence[Any]) -> list[Steering]:
        """Steerings of unit embeddings, such as `embedding` gives.

        Args:
            embeddings: one a concept.
            said: what `made_by` calls each.
        """
        rows, digest, usual = torch.stack(list(embeddings)), self.fingerprint, self.usual_novelty
        with torch.no_grad():
            found = self.network(rows.to(self.network.places.device))
        steerings = []
        for place, (row, name) in enumerate(zip(rows, said, strict=True)):
            maps = {site: self.scales[site].map(*values[place]) for site, values in found.items()}
            pairs = {site: (one.weight.float().cpu(), one.shift.float().cpu()) for site, one in maps.items()}
            novelty, nearest = self._nearest(row)
            made_by = {
                "estimator": "HyperTransport",
                "settings": dict(self.settings),
                "concept": name,
                "novelty": novelty,
                "nearest_concept": nearest,
                "usual_novelty": usual,
                "hypernetwork": digest,
            }
            steerings.append(Steering(pairs, self._site_base, made_by))
        return steerings

    def embedding(self, concept: Condition) -> Float[Tensor, " e"]:
        """Unit embedding of a concept, centred."""
        return self.conditions.of(concept)

    def novelty(self, concept: Condition) -> float:
        """Novelty: 1 - cosine to the nearest training concept, in [0, 2]; compare it with `usual_novelty`."""
        return self._nearest(self.embedding(concept))[0]

    @property
    def usual_novelty(self) -> float:
        """Usual novelty: the 95th percentile of what each training concept has against all the others.

        A concept beyond it lies outside what was trained on.
        """
        cosines = self.embeddings @ self.embeddings.T
        cosines.fill_diagonal_(-torch.inf)
        return _novelty(torch.quantile(1 - cosines.amax(1), USUAL))

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change when the network, a scale or a centre does."""
        return hashlib.sha256(bytes_of(self._tensors())).hexdigest()[:16]

    def _nearest(self, row: Float[Tensor, " e"]) -> tuple[float, str]:
        cosines = self.embeddings @ row
        best = int(cosines.argmax())
        return _novelty(1 - cosines[best]), self.concepts[best]

    @property
    def _site_base(self) -> Base:
        paths = {Site.parse(name).path for name in self.scales}
        return Base(
            self.base.name, {path: one for path, one in self.base.fingerprints.items() if path in paths}
        )

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        for site, scale in self.scales.items():
            tensors |= {f"centre.{site}": scale.centre, f"spread.{site}": scale.spread}
        tensors |= {"embeddings": self.embeddings, "text_centre": self.conditions.text_centre}
        if self.conditions.picture_centre is not None:
            tensors["picture_centre"] = self.conditions.picture_centre
        return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write it as safetensors and a configuration; the folder appears whole or not at all.

        The encoder is not in it: its name and fingerprint are.

        Raises:
            ModelError: a folder that holds something else.
            CheckpointError: the disk is full; what was there is intact.
        """
        target = folder_for("a hypernetwork", folder, FILES)
        weights = bytes_of(self._tensors(), metadata={"format": "pt"})
        encoder = self.conditions.encoder
        config = {
            "schema": SCHEMA,
            "base_model_name_or_path": self.base.name,
            "fingerprints": dict(self.base.fingerprints),
            "sites": self.network.widths,
            "embedding": self.network.embedding,
            "sizes": self.network.sizes,
            "encoder": {"name": encoder.name, "fingerprint": encoder_fingerprint(encoder)},
            "concepts": list(self.concepts),
            "settings": dict(self.settings),
            "losses": list(self.losses),
            "trimtab_version": versions().get("trimtab", "unknown"),
            "sha256": hashlib.sha256(weights).hexdigest(),
        }
        with atomic_directory(target) as new:
            (new / WEIGHTS).write_bytes(weights)
            (new / CONFIG).write_text(to_json(config, indent=2) + "\n", encoding="utf-8")
            (new / CARD).write_text(_card(self), encoding="utf-8")
        return target

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, generator: Model, encoder: Any = None
    ) -> FittedHyperTransport:
        """Read it from a folder, all of it checked.

        Args:
            folder: what `save_pretrained` wrote.
            generator: the model that it was fitted on.
            encoder: in the place of the one that is named in the folder, with the same weights.

        Raises:
            ModelError: a file is missing, damaged or changed since it was saved, another generator, or another
                encoder.
        """
        place = Path(folder).expanduser()
        config = read_config(place)
        base = Base(config["base_model_name_or_path"], config["fingerprints"])
        _check_generator(place, base, generator, config["settings"].get("timestep"))
        named = config["encoder"]
        try:
            words = encoder_of(named["name"] if encoder is None else encoder, generator)
        except ModelError as error:
            asked = named["name"] if encoder is None else getattr(encoder, "name", encoder)
            got = f"no encoder {str(asked)!r} ({error})"
            raise _refused(place, got, "the one that it was fitted with", "encoder=, its folder") from error
        if encoder_fingerprint(words) != named["fingerprint"]:
            got = f"the encoder {words.name!r} with other weights"
            raise _refused(place, got, f"those of {named['name']!r} when this was fitted", "encoder=")
        tensors = _read_weights(place, config["sha256"])
        sizes = Sizes(**config["sizes"])
        network = HyperNetwork(config["sites"], config["embedding"], sizes)
        own = {
            name.removeprefix("network."): one for name, one in tensors.items() if name.startswith("network.")
        }
        try:
            network.load_state_dict(own)
        except RuntimeError as error:
            hint = "saving it again"
            raise _refused(place, first_line(error), f"the tensors that {CONFIG} speaks of", hint) from error
        _check_shapes(place, config, tensors)
        scales = {
            site: Scale(tensors[f"centre.{site}"], tensors[f"spread.{site}"]) for site in config["sites"]
        }
        device = device_of(network_of(generator))
        scales = {site: Scale(one.centre.to(device), one.spread.to(device)) for site, one in scales.items()}
        conditions = Conditions(words, tensors["text_centre"], tensors.get("picture_centre"))
        concepts, losses, known = tuple(config["concepts"]), tuple(config["losses"]), tensors["embeddings"]
        return cls(network.to(device), scales, conditions, concepts, known, base, config["settings"], losses)


def _novelty(gap: Tensor) -> float:
    """1 - cosine, in [0, 2] in spite of rounding."""
    return min(max(float(gap), 0.0), 2.0)


def _said(concept: Condition) -> Any:
    """What a card says of a condition."""
    if isinstance(concept, str):
        return concept
    if isinstance(concept, list | tuple):
        texts = all(isinstance(one, str) for one in concept)
        return list(concept) if texts else f"{len(concept)} picture{'s' * (len(concept) != 1)}"
    return f"the picture {concept}" if isinstance(concept, Path) else "a picture"


CONFIG, WEIGHTS, CARD = FILES = ("hypertransport_config.json", "hypertransport.safetensors", "README.md")
SCHEMA = 1
_EXPECTED: Mapping[str, type] = {
    **dict.fromkeys(("base_model_name_or_path", "sha256"), str),
    **dict.fromkeys(("fingerprints", "sites", "sizes", "encoder", "settings"), dict),
    **dict.fromkeys(("concepts", "losses"), list),
    "embedding": int,
}


def _card(fitted: FittedHyperTransport) -> str:
    concepts = "\n".join(f"- {name}" for name in fitted.concepts[:20])
    rest = f"\n- and {len(fitted.concepts) - 20} more" if len(fitted.concepts) > 20 else ""
    return (
        "---\nlibrary_name: trimtab\ntags: [steering, hypernetwork]\n---\n\n"
        f"# A hypernetwork of steerings for {fitted.base.name}\n\n"
        "It maps the embedding of a concept to a steering in one forward pass "
        "([arXiv 2605.08254](https://arxiv.org/abs/2605.08254)).\n\n"
        "```python\nfrom trimtab import HyperTransport, load\n\n"
        f'generator = load("{fitted.base.name}")\n'
        'hyper = HyperTransport.from_pretrained("this folder", generator)\n'
        'with hyper("words").on(generator, strength=0.8):\n    generator.generate(["..."])\n```\n\n'
        f"- Encoder: `{fitted.conditions.encoder.name}`\n"
        f"- Sites: {len(fitted.scales)}\n"
        f"- Usual novelty of a concept: {fitted.usual_novelty:.3f}; beyond it, it lies outside what was trained on\n"
        f"- Version: trimtab {versions().get('trimtab', 'unknown')}\n\n"
        f"## Training concepts\n\n{concepts}{rest}\n\n"
        f"## Settings\n\n```json\n{to_json(dict(fitted.settings), indent=2)}\n```\n"
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Configuration of a saved hypernetwork, checked.

    Raises:
        ModelError: no such folder, or one that another version of trimtab wrote.
    """
    path = folder / CONFIG
    if not path.exists():
        got = f"the folder {folder} without {CONFIG}" if folder.is_dir() else f"{folder}, which is no folder"
        raise ModelError(explain(got, "a folder that save_pretrained of a hypernetwork wrote"))
    try:
        config = read_object(path)
    except CheckpointError as error:
        raise ModelError(str(error)) from error
    if config.get("schema") != SCHEMA:
        got = f"schema {config.get('schema')!r:.40} by trimtab {config.get('trimtab_version')!s:.40}"
        raise _refused(path, got, f"schema {SCHEMA}", "another version of trimtab")
    for name, kind in _EXPECTED.items():
        if type(config.get(name)) is not kind:
            raise _refused(path, f"{name} {config.get(name)!r:.40}", f"a {kind.__name__}", "saving it again")
    whole = [*config["sites"].values(), *config["sizes"].values(), config["embedding"]]
    if not config["sites"] or not all(type(one) is int and one > 0 for one in whole):
        raise _refused(
            path, "widths that are no whole numbers above 0", "those that were saved", "saving it again"
        )
    if set(config["sizes"]) != set(Sizes.__dataclass_fields__) or set(config["encoder"]) != {
        "name",
        "fingerprint",
    }:
        raise _refused(path, "other keys of sizes or encoder", "those that were saved", "saving it again")
    return config


def _check_generator(folder: Path, base: Base, generator: Model, timestep: int | None) -> None:
    own = None if (pipeline := getattr(generator, "pipeline", None)) is None else pipeline.timestep
    if own != timestep and None not in (own, timestep):
        hint = f"load(folder, timestep={timestep})"
        raise _refused(folder, f"a generator at time step {own}", f"{timestep}, as it was fitted at", hint)
    expected, hint = "the generator that it was fitted on", "fitting it anew on this one"
    try:
        resolve(generator, list(base.fingerprints))
    except ModelError as error:
        raise _refused(folder, f"another generator ({error})", expected, hint) from error
    if changed := base.conflicts(base_of(generator, base.fingerprints)):
        got = f"a generator whose weights at {changed[0]} are not those of {base.name}"
        raise _refused(folder, got, expected, hint)


def _read_weights(folder: Path, sha256: str) -> dict[str, Tensor]:
    content = read_bytes(folder / WEIGHTS, "safetensors", error=ModelError)
    if hashlib.sha256(content).hexdigest() != sha256:
        got = f"{WEIGHTS} of {len(content)} bytes, cut short or changed after it was saved"
        raise _refused(folder, got, f"the one whose SHA-256 is in {CONFIG}", "saving it again")
    try:
        return tensors_from(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise _refused(folder, first_line(error), "safetensors", "saving it again") from error


def _check_shapes(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that do not fit the sites, the concepts or the width of embeddings of a configuration."""
    wide = config["embedding"]
    shapes = {"embeddings": (len(config["concepts"]), wide), "text_centre": (wide,)}
    if "picture_centre" in tensors:
        shapes["picture_centre"] = (wide,)
    for site, width in config["sites"].items():
        shapes |= {f"centre.{site}": (width,), f"spread.{site}": (width,)}
    for name, shape in shapes.items():
        if name not in tensors or tuple(tensors[name].shape) != shape:
            got = f"{name} {tuple(tensors[name].shape)}" if name in tensors else f"no {name}"
            raise _refused(folder, got, f"{shape}, as {CONFIG} says", "saving it again")


def _refused(where: Path, got: str, expected: str, hint: str) -> ModelError:
    return ModelError(f"{where}: {explain(got, expected, hint)}")
