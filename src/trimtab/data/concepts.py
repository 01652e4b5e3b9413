"""Concepts: names with positive and negative examples, texts or pictures, checked before anything is run on them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int

from trimtab.data import concept as single
from trimtab.data.concept import Concept, Example, identity
from trimtab.errors import DataError, explain, nearest, refusal
from trimtab.runs.atomic import write_atomic
from trimtab.runs.brief import one_line
from trimtab.seeds import derive


@dataclass(frozen=True)
class Pool:
    """Distinct examples of a set of concepts, and the places of each concept's examples among them.

    Attributes:
        examples: in order of first use.
        positive: for each concept, places in `examples`.
        negative: the same.
    """

    examples: tuple[Example, ...]
    positive: tuple[Int[np.ndarray, " p"], ...]
    negative: tuple[Int[np.ndarray, " n"], ...]


@dataclass(frozen=True)
class ConceptSet:
    """Set of concepts that are compared with one another.

    Attributes:
        concepts: at least one.
        notes: what was left out when they were put together.

    Raises:
        DataError: naming each concept that has no positive or no negative example, an example twice, one that is both
            positive and negative, the same positive examples as another concept, or another one's name.
    """

    concepts: tuple[Concept, ...]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        examples = sum(len(each.positive) for each in self.concepts)
        names = [each.name for each in self.concepts]
        some = ", ".join(names[:4]) + ", ..." * (len(names) > 4)
        return one_line("ConceptSet", f"{len(names)} concepts: {some}", f"{examples} positive examples")

    def __post_init__(self) -> None:
        if wrong := list(single.mistakes(self.concepts)):
            raise DataError("\n".join(wrong))

    @classmethod
    def from_jsonl(cls, path: str | Path) -> ConceptSet:
        """Concepts of a file with one JSON object a line: `{"name": ..., "positive": [...], "negative": [...]}`.

        An optional `"word"` says which word the positive sentences mention; otherwise it is the name, without a WordNet
        sense such as `bank%1:14:00::` or `bank.n.01`, and null says that there is none. Sentences that lack their word,
        and negative ones that have it, are kept and warned of, see `findings`.

        Raises:
            DataError: no such file, a line that is no such object, or what the class refuses.
        """
        read = tuple(single.read_concepts(Path(path)))
        if wrong := list(single.mistakes(read)):
            raise DataError("\n".join(f"{path}: {mistake}" for mistake in wrong))
        concepts = cls(read)
        if concepts.findings:
            warnings.warn("\n".join(concepts.findings), stacklevel=2)
        return concepts

    @classmethod
    def one_against_rest(
        cls,
        positive: Mapping[str, Sequence[Example]],
        *,
        negatives: int | None = None,
        words: bool = True,
        notes: tuple[str, ...] = (),
        seed: int = 0,
    ) -> ConceptSet:
        """One-against-rest concepts: negative examples are drawn from the positive ones of the others.

        They are drawn in one order for all concepts, so that two concepts differ in their positive examples and hardly
        in the negative ones.

        Args:
            positive: name -> examples, at least two names.
            negatives: how many for each; None takes all there are.
            words: whether names are words; texts that mention a concept's word are then no negatives of it.
            notes: to keep.
            seed: of the draws.

        Raises:
            DataError: a concept with fewer possible negatives than asked for, or what the class refuses.
        """
        _refuse_texts(positive)
        every = {identity(one): one for examples in positive.values() for one in examples}
        order = np.random.default_rng(derive(seed, "negatives")).permutation(len(every))
        every = dict(list(every.items())[place] for place in order)
        concepts = []
        for name, examples in positive.items():
            word = single.word_of(name) if words else None
            taken = {identity(one) for one in examples}
            rest = [one for key, one in every.items() if key not in taken]
            if word is not None:
                rest = [one for one in rest if not isinstance(one, str) or not single.mentions(one, word)]
            if negatives is not None and len(rest) < negatives:
                got = f"{len(rest)} possible negative examples"
                raise refusal(name, got, f"the {negatives} asked for", "fewer, or more concepts")
            # Pictures mention nothing.
            word = word if examples and isinstance(examples[0], str) else None
            concepts.append(Concept(name, tuple(examples), tuple(rest[:negatives]), word))
        return cls(tuple(concepts), notes)

    @classmethod
    def from_sentences(
        cls,
        sentences: Mapping[str, Sequence[str]],
        *,
        positives: int = 24,
        negatives: int = 60,
        seed: int = 0,
    ) -> ConceptSet:
        """Words as concepts, from a collection of sentences for each.

        Args:
            sentences: word -> those that mention it; a word with fewer than `positives` is left out, and `notes` says
                so.
            positives: sentences of each word, drawn at random.
            negatives: of each, drawn from the positive sentences of the other words that do not mention it.
            seed: of the draws; each word has its own, so that other words change none of its positives.

        Raises:
            DataError: fewer than two words with enough sentences, or too few negatives.
        """
        _refuse_texts(sentences)
        kept = sorted(word for word in sentences if len(sentences[word]) >= positives)
        few = sorted(set(sentences) - set(kept))
        note = f"left out {len(few)} words with fewer than {positives} sentences: {', '.join(few)}"
        if len(kept) < 2:
            got = f"{len(kept)} words with {positives} sentences"
            raise DataError(explain(got, "at least two", "fewer positives, or more words"))
        drawn = {}
        for word in kept:
            order = np.random.default_rng(derive(seed, "concept", word)).permutation(len(sentences[word]))
            drawn[word] = [sentences[word][place] for place in order[:positives]]
        return cls.one_against_rest(drawn, negatives=negatives, notes=(note,) if few else (), seed=seed)

    @classmethod
    def from_wordnet_glosses(
        cls,
        path: str | Path,
        words: Iterable[str],
        *,
        pos: Collection[str] | None = single.NOT_NOUNS,
        positives: int = 24,
        negatives: int = 60,
        seed: int = 0,
    ) -> ConceptSet:
        """Words as concepts, from the definitions and examples of WordNet that mention them.

        Args:
            path: JSON lines, gzipped or not, with `definition` and `examples` in each; sentences of at least five words
                count.
            words: the concepts: single words of letters, in any case.
            pos: parts of speech of the entries whose definitions and examples count ("n", "v", "a", "r"; None for all),
                not of the words: "a heavy dog" in an adjective's entry is a sentence about dogs.
            positives: see `from_sentences`.
            negatives: see `from_sentences`.
            seed: see `from_sentences`.

        Raises:
            DataError: a file that is none of WordNet's, or fewer than two words with enough sentences.
        """
        _refuse_texts({"words": words})
        sentences = single.sentences_of(Path(path), words, pos)
        return cls.from_sentences(sentences, positives=positives, negatives=negatives, seed=seed)

    @classmethod
    def from_templates(
        cls, words: Sequence[str], templates: Sequence[str], *, negatives: int | None = None, seed: int = 0
    ) -> ConceptSet:
        """Words as concepts, each in the same template sentences, so that they differ in the word only.

        Args:
            words: at least two.
            templates: sentences with `{}` where the word goes.
            negatives: sentences of other words for each; None for all.
            seed: of the draws.

        Raises:
            DataError: a template without `{}`, or what the class refuses.

        >>> ConceptSet.from_templates(["cat", "dog"], ["A {} sleeps."])["cat"].negative
        ('A dog sleeps.',)
        """
        _refuse_texts({"words": words, "templates": templates})
        if wrong := [template for template in templates if "{}" not in template]:
            raise DataError(explain(f"the template {wrong[0]!r}", "{} where the word goes"))
        positive = {word: [template.replace("{}", word) for template in templates] for word in words}
        return cls.one_against_rest(positive, negatives=negatives, seed=seed)

    def save_jsonl(self, path: str | Path) -> Path:
        """Write concepts of texts as the file that `from_jsonl` reads.

        Raises:
            DataError: concepts of pictures.
        """
        if not self.textual:
            raise DataError(explain("concepts of pictures", "concepts of texts"))
        write_atomic(Path(path), "".join(json.dumps(vars(concept)) + "\n" for concept in self))
        return Path(path)

    @property
    def names(self) -> list[str]:
        """The names of the concepts."""
        return [concept.name for concept in self.concepts]

    @property
    def textual(self) -> bool:
        """Whether the examples are texts; else they are pictures."""
        return isinstance(self.concepts[0].positive[0], str)

    @cached_property
    def pool(self) -> Pool:
        """Distinct examples of all concepts, and the places of each concept's."""
        every: dict[object, tuple[int, Example]] = {}

        def places(examples: Sequence[Example]) -> Int[np.ndarray, " n"]:
            return np.array([every.setdefault(identity(one), (len(every), one))[0] for one in examples])

        positive = tuple(places(concept.positive) for concept in self)
        negative = tuple(places(concept.negative) for concept in self)
        return Pool(tuple(example for _, example in every.values()), positive, negative)

    @cached_property
    def findings(self) -> tuple[str, ...]:
        """Warnings about the data: words left out, positive sentences without their word, negative ones with it."""
        return (*self.notes, *(finding for concept in self for finding in single.word_findings(concept)))

    def number(self, name: str) -> int:
        """Index of a concept in the set, by its name.

        Raises:
            DataError: there is none of this name; the nearest is named.
        """
        if name not in self.names:
            expected = f"one of {len(self)} concepts"
            raise refusal("concept", repr(name), expected, nearest(str(name), self.names))
        return self.names.index(name)

    def __getitem__(self, name: str) -> Concept:
        return self.concepts[self.number(name)]

    def __iter__(self) -> Iterator[Concept]:
        return iter(self.concepts)

    def __len__(self) -> int:
        return len(self.concepts)


def _refuse_texts(lists: Mapping[str, object]) -> None:
    """Refuse a text where a list of texts is expected: its letters would be read as examples."""
    for name, one in lists.items():
        if isinstance(one, str):
            raise refusal(name, "a single text", "a list of texts", "[text]")
