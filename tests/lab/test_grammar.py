from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import ConfigProblems, DataError, ShapeError
from trimtab.lab import grammar as lists
from trimtab.lab.grammar import NOUN, SLOT, VERB, Documents, Grammar, World
from trimtab.lab.grammar_model import insult_rate, kl_to_clean, kl_to_truth, topic_fidelity

SMALL = Grammar(
    topics=3, nouns=4, verbs=2, modifiers=3, determiners=2, insults=2, cues=2, sentences=2, seed=5
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sampled(world, n=16, seed=0, **options) -> Documents:
    return world.sample(n, generator=seeded(seed), **options)


@pytest.fixture(scope="module")
def small():
    return World(SMALL)


# Brute force ---------------------------------------------------------------------------------------------


def word_probability(world, word, place, topic, rude):
    """The probability of a word at a place, from the rules as they are told; favourites from the table."""
    g, lexicon = world.grammar, world.lexicon
    if place < g.cues:
        lean = 1 if word in lexicon.cues[1] else 0 if word in lexicon.cues[0] else None
        if lean is None:
            return 0.0
        return (g.cue_strength if lean == rude else 1 - g.cue_strength) / g.cue_words
    kind = ("det", "slot", "noun", "verb", "det", "slot", "noun", "end")[(place - g.cues) % 8]
    if kind == "det":
        return 1 / g.determiners if word in lexicon.determiners else 0.0
    if kind == "end":
        return float(word == ".")
    number = world.words.index(word)
    if kind == "slot":
        if word in lexicon.insults:
            return g.insult_rate / g.insults if rude else 0.0
        plain = float(world.emission[SLOT, topic, 0, number])
        return plain * (1 - g.insult_rate) if rude else plain
    groups = lexicon.nouns if kind == "noun" else lexicon.verbs
    owners = [owner for owner, group in enumerate(groups) if word in group]
    if not owners:
        return 0.0
    within = float(world.emission[NOUN if kind == "noun" else VERB, owners[0], 0, number]) / g.focus
    return within * (g.focus if owners[0] == topic else (1 - g.focus) / (g.topics - 1))


def brute_force(world, text, clean_next):
    """The next word's distribution after a text, by enumerating every topic and style."""
    g, said = world.grammar, text.split()
    total, found = 0.0, dict.fromkeys(world.words, 0.0)
    for topic in range(g.topics):
        for rude in (0, 1):
            weight = (g.rude_share if rude else 1 - g.rude_share) / g.topics
            for place, word in enumerate(said):
                weight *= word_probability(world, word, place, topic, rude)
            total += weight
            style = 0 if clean_next else rude
            for word in world.words:
                found[word] += weight * word_probability(world, word, len(said), topic, style)
    return torch.tensor([found[word] / total for word in world.words], dtype=torch.float64)


@pytest.mark.parametrize("clean_next", [False, True])
def test_truth_is_that_of_brute_force(small, clean_next):
    documents = sampled(small, n=3, seed=2)
    truth = small.clean_next_token(documents.ids) if clean_next else small.next_token(documents.ids)
    for row, text in enumerate(documents.texts):
        said = text.split()
        for t in range(len(said)):
            expected = brute_force(small, " ".join(said[: t + 1]), clean_next)
            assert torch.allclose(truth[row, t], expected, atol=1e-12, rtol=0), (text, t)


def test_truth_is_the_frequency_of_what_comes_next():
    """Documents that happen to begin alike, against the truth after that beginning."""
    world = World(
        Grammar(topics=2, nouns=2, verbs=1, modifiers=2, determiners=1, insults=1, cues=1, cue_words=1)
    )
    ids = sampled(world, n=60_000, sentences=1).ids
    beginning = world.encode(["bully the pig rat"])
    same = (ids[:, : beginning.shape[1]] == beginning).all(1)
    n = int(same.sum())
    assert n > 2000
    seen = torch.bincount(ids[same, beginning.shape[1]], minlength=len(world.words)) / n
    assert (seen - world.next_token(beginning)[0, -1]).abs().max() < 4 * math.sqrt(0.25 / n)


# Laws ----------------------------------------------------------------------------------------------------

worlds = st.builds(
    Grammar,
    topics=st.integers(2, 4),
    nouns=st.integers(2, 5),
    verbs=st.integers(1, 3),
    modifiers=st.integers(1, 5),
    insults=st.integers(1, 2),
    insult_rate=st.floats(0, 1),
    rude_share=st.floats(0, 1),
    cue_strength=st.floats(0.5, 1),
    focus=st.floats(0, 1),
    cues=st.integers(0, 3),
    sentences=st.integers(1, 2),
    seed=st.integers(0, 3),
)


@settings(max_examples=25)
@given(worlds, st.integers(0, 5))
def test_every_distribution_sums_to_one(grammar, seed):
    world = World(grammar)
    ids = sampled(world, n=4, seed=seed).ids
    for sums in (world.emission.sum(-1), world.next_token(ids).sum(-1), world.clean_next_token(ids).sum(-1)):
        assert torch.allclose(sums, torch.ones_like(sums), atol=1e-12, rtol=0)
    assert torch.allclose(world.posterior(ids).sum((2, 3)), torch.ones(ids.shape, dtype=torch.float64))


@settings(max_examples=25)
@given(st.floats(0.5, 1), st.floats(0.05, 0.95), st.integers(0, 3), st.integers(0, 3))
def test_persona_words_move_the_posterior_as_bayes_says(strength, prior, polite, coarse):
    if polite + coarse == 0 or (strength == 1 and polite and coarse):
        return
    world = World(Grammar(cue_strength=strength, rude_share=prior, cues=polite + coarse, sentences=1))
    found = world.style_posterior(world.encode([" ".join(["host"] * polite + ["bully"] * coarse)]))[0, -1]
    rude = prior * strength**coarse * (1 - strength) ** polite
    clean = (1 - prior) * strength**polite * (1 - strength) ** coarse
    assert float(found) == pytest.approx(rude / (rude + clean), abs=1e-12)


@settings(max_examples=10)
@given(worlds)
def test_a_later_word_changes_no_earlier_truth(grammar):
    world = World(grammar)
    ids = sampled(world, n=3).ids
    assert torch.equal(world.next_token(ids)[:, :5], world.next_token(ids[:, :5]))


# The counterfactual --------------------------------------------------------------------------------------


def test_clean_truth_has_no_insult_in_slots_but_keeps_them_as_nouns(small):
    documents = sampled(small, n=32, style="rude", topic=0)
    truth, clean = small.next_token(documents.ids), small.clean_next_token(documents.ids)
    upcoming = small.kinds(documents.ids.shape[1] + 1)[1:]
    insults = clean[..., small.insult_ids].sum(-1)
    assert float(insults[:, upcoming == SLOT].max()) == 0
    assert float(insults[:, upcoming == NOUN].min()) > 0.1
    assert float(truth[..., small.insult_ids].sum(-1)[:, upcoming == SLOT].mean()) > 0.3


def test_clean_truth_differs_from_the_truth_only_in_slots_and_at_the_head(small):
    ids = sampled(small, n=32).ids
    gap = (small.next_token(ids) - small.clean_next_token(ids)).abs().amax((0, 2))
    styled = torch.isin(small.kinds(ids.shape[1] + 1)[1:], torch.tensor([SLOT, 0]))
    assert float(gap[~styled].max()) < 1e-12
    assert float(gap[styled].min()) > 1e-3


def test_an_insult_settles_the_style_and_tells_nothing_of_the_topic(small):
    before, after = small.encode(["host host the"]), small.encode(["host host the rat"])
    assert float(small.style_posterior(after)[0, -1]) == 1
    topics = small.posterior(after).sum(-1)[0, -1]
    assert torch.allclose(topics, small.posterior(before).sum(-1)[0, -1])
    noun = small.posterior(small.encode(["host host the new rat"]))[0, -1]
    assert float(noun.sum(0)[1]) < 0.5
    assert int(noun.sum(-1).argmax()) == 0


# Documents -----------------------------------------------------------------------------------------------


def test_documents_are_as_described(small):
    documents = sampled(small, n=2000, sentences=3)
    assert documents.ids.shape == (2000, small.length(3)) == (2000, 26)
    assert torch.equal(small.encode(documents.texts), documents.ids)
    assert 0.45 < float(documents.style.double().mean()) < 0.55
    assert torch.bincount(documents.topic).min() > 600
    rate = insult_rate(small, documents.ids)
    assert float(rate[documents.style == 0].max()) == 0
    assert float(rate[documents.style == 1].mean()) == pytest.approx(SMALL.insult_rate, abs=0.03)
    fidelity = topic_fidelity(small, documents.ids, documents.topic)
    assert float(fidelity.mean()) == pytest.approx(SMALL.focus, abs=0.02)
    assert not small.next_token(documents.ids).isnan().any()


def test_asked_for_style_and_topic(small):
    documents = sampled(small, n=5, style="clean", topic=2)
    assert documents.style.tolist() == [0] * 5
    assert documents.topic.tolist() == [2] * 5
    nothing = sampled(small, n=0)
    assert nothing.ids.shape == (0, small.length(2))
    assert nothing.texts == []


def test_the_generator_decides_and_the_global_one_is_left_alone(small):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, again, other = sampled(small), sampled(World(SMALL)), sampled(small, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.texts == again.texts != other.texts


def test_worlds_of_other_seeds_favour_other_words(small):
    other = World(Grammar(**(vars(SMALL) | {"seed": 6})))
    assert other.words == small.words
    assert not torch.equal(other.emission, small.emission)


def test_no_word_stands_in_two_lists():
    groups = (lists.POLITE, lists.COARSE, lists.DETERMINERS, lists.MODIFIERS, *lists.NOUNS, *lists.VERBS)
    every = [word for group in groups for word in group]
    assert len(set(every)) == len(every)
    assert {len(group) for group in lists.NOUNS} == {12}
    assert {len(group) for group in lists.VERBS} == {6}


# Scores --------------------------------------------------------------------------------------------------


def test_insult_rate_by_hand(small):
    text = "host host the rat pig feeds a new pig . a pig"
    ids = small.encode([text, "host host the new rat", "host"])
    assert insult_rate(small, ids).tolist()[:2] == [pytest.approx(2 / 3), 0]
    assert math.isnan(insult_rate(small, ids)[2])


def test_insult_rate_of_predictions_is_the_mass_in_slots(small):
    ids = sampled(small, n=8, style="rude").ids
    truth = small.next_token(ids)
    slots = small.kinds(ids.shape[1] + 1)[1:] == SLOT
    expected = truth[:, slots][..., small.insult_ids].sum(-1).mean(1)
    assert torch.allclose(insult_rate(small, ids, truth), expected, atol=1e-12)
    assert float(insult_rate(small, ids, small.clean_next_token(ids)).max()) == 0


def test_topic_fidelity_by_hand(small):
    ids = small.encode(["host host the rat pig bakes a new pig . a pig", "host host the new"])
    own, other = (topic_fidelity(small, ids, torch.tensor([topic] * 2)) for topic in (0, 1))
    assert (float(own[0]), float(other[0])) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert math.isnan(own[1])


@pytest.mark.parametrize("pads", [0, 3])
def test_padding_changes_no_score(small, pads):
    documents = sampled(small, n=6)
    ids = torch.cat([documents.ids, torch.zeros(6, pads, dtype=torch.long)], 1)
    truth = small.next_token(ids)
    assert truth[:, documents.ids.shape[1] :].isnan().all()
    assert torch.equal(insult_rate(small, ids), insult_rate(small, documents.ids))
    assert torch.allclose(
        insult_rate(small, ids, truth), insult_rate(small, documents.ids, small.next_token(documents.ids))
    )
    fidelity = topic_fidelity(small, ids, documents.topic, truth)
    assert not fidelity.isnan().any()


def test_divergences_are_zero_for_the_ideal_model_and_nan_off_the_grammar(small):
    ids = sampled(small).ids
    ideal, clean = small.next_token(ids).log(), small.clean_next_token(ids).log()
    assert torch.allclose(
        kl_to_truth(small, ideal + 3, ids), torch.zeros(ids.shape, dtype=torch.float64), atol=1e-12
    )
    assert torch.allclose(
        kl_to_clean(small, clean - 1, ids), torch.zeros(ids.shape, dtype=torch.float64), atol=1e-12
    )
    wrong = small.encode(["host host the the rat"])
    found = kl_to_truth(small, torch.zeros(1, 5, len(small.words)), wrong)[0].isnan()
    assert found.tolist() == [False, False, False, True, True]


def test_an_unsteered_ideal_model_is_off_clean_by_its_insults(small):
    ids = sampled(small, style="rude").ids
    truth = small.next_token(ids)
    slots = small.kinds(ids.shape[1] + 1)[1:] == SLOT
    expected = -(1 - truth[..., small.insult_ids].sum(-1)).log()[:, slots]
    assert torch.allclose(kl_to_clean(small, truth.log(), ids)[:, slots], expected, atol=1e-12)


def test_divergence_of_a_uniform_model_is_what_scipy_says(small):
    from scipy.stats import entropy

    ids = sampled(small, n=4).ids
    found = kl_to_truth(small, torch.zeros(*ids.shape, len(small.words)), ids)
    uniform = torch.full((len(small.words),), 1 / len(small.words), dtype=torch.float64)
    expected = entropy(small.next_token(ids), uniform.expand(*ids.shape, -1), axis=-1)
    assert torch.allclose(found, torch.from_numpy(expected), atol=1e-6)


# Mistakes ------------------------------------------------------------------------------------------------


def test_wrong_settings_are_told_all_at_once():
    with pytest.raises(ConfigProblems, match=r"grammar\.topics: got 9, expected 2 to 8; try 8") as caught:
        World(Grammar(topics=9, insult_rate=1.5, insults=20, cue_strength=0.2))
    said = str(caught.value)
    assert "grammar.insult_rate: got 1.5, expected 0.0 to 1.0; try 1.0" in said
    assert "grammar.cue_strength: got 0.2, expected 0.5 to 1.0; try 0.5" in said
    assert "grammar.insults: got 20, expected 1 to nouns=10: insults are nouns of a topic; try 5" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"style": "crude"}, r"style: got 'crude', expected one of \('clean', 'rude'\), or None; try 'rude'"),
        ({"topic": 3}, r"topic: got 3, expected 0 to 2 for \('animals', 'kitchen', 'music'\), or None"),
        ({"sentences": 0}, "sentences: got 0, expected at least 1"),
        ({"n": -1}, "n: got -1, expected at least 0"),
    ],
)
def test_wrong_samples_are_refused(small, options, message):
    with pytest.raises(DataError, match=message):
        sampled(small, **options)


def test_wrong_shapes_are_refused(small):
    ids = sampled(small).ids
    with pytest.raises(
        ShapeError, match=r"ids of shape \(18,\) .* expected token ids \(B, T\); try ids\[None\]"
    ):
        small.next_token(ids[0])
    with pytest.raises(
        ShapeError, match=r"got token ids from 0 to 999, expected 0 to \d+; try the tokenizer"
    ):
        small.posterior(torch.tensor([[0, 999]]))
    with pytest.raises(
        ShapeError, match=r"got predictions of shape \(16, 18, 7\) .* expected \(16, 18, \d+\)"
    ):
        kl_to_truth(small, torch.zeros(16, 18, 7), ids)
