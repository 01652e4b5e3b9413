from __future__ import annotations

import pandas as pd
import pytest

from trimtab.data.concepts import ConceptSet
from trimtab.errors import ConfigError
from trimtab.lab.grammar import UNKNOWN_TOKEN, Grammar, World
from trimtab.lab.registry import concepts, noun_concepts, noun_topics, ratings


def test_sentences_are_of_the_world_and_tell_the_noun_only():
    found, world = noun_concepts(), World(Grammar())
    assert len(found) == 80
    assert UNKNOWN_TOKEN not in world.words or world.lexicon.number[UNKNOWN_TOKEN] not in world.encode(
        found.pool.examples
    )
    frames = {tuple(text.replace(c.name, "{}") for text in c.positive) for c in found}
    assert len(frames) == 1
    assert noun_concepts() == found
    assert found.findings == ()


def test_the_words_around_a_noun_favour_no_topic_over_the_nouns_of_another():
    """Whatever verbs stand in the frames, they stand in the frames of every noun."""
    found = noun_concepts()
    assert {text.split()[6] for text in found["pig"].positive} == {
        text.split()[6] for text in found["bank"].positive
    }


def test_files_are_written_once(tmp_path):
    path = concepts("nouns", tmp_path)
    assert ConceptSet.from_jsonl(path) == noun_concepts()
    assert concepts("nouns", tmp_path) == path
    rated, topic = pd.read_csv(ratings("topics", tmp_path)), noun_topics()
    assert len(rated) == 80 * 79 // 2
    assert rated["score"].sum() == 8 * 45
    assert all((topic[a] == topic[b]) == s for a, b, s in rated.values[:500])


def test_names_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="lab concepts: got 'noun', expected one of"):
        concepts("noun", tmp_path)
    with pytest.raises(ConfigError, match="lab ratings: got 'topic'"):
        ratings("topic", tmp_path)
