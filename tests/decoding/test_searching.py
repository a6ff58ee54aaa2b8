"""Texts that search, by enumeration of a model so small that all of them can be written down."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np

from ragjax.decoding.searching import TextModel, write_texts, written_places
from ragjax.types import EOS_ID, PAD_ID, TopK

MARKER, WORDS, V, H, T, SEARCHES = 3, (4, 5), 8, 3, 2, 2
PASSAGES = np.array([[6, 7], [7, 0], [0, 0]], np.int32)
PROMPT = np.array([4, 6], np.int32)
rng = np.random.default_rng(0)
TABLE, WRITE = rng.normal(size=(V, H)), rng.normal(size=(H, V))
WRITE[:, MARKER] += 0.3
NEVER = np.isin(np.arange(V), (PAD_ID, 1, 6, 7))


def embedded(tokens):
    return jnp.where((tokens != PAD_ID)[..., None], jnp.asarray(TABLE, jnp.float32)[tokens], 0.0)


def logprobs(params, states):
    scores = jnp.tanh(states) @ (params * jnp.asarray(WRITE, jnp.float32))
    return jax.nn.log_softmax(jnp.where(NEVER, -1e9, scores), axis=-1)


def read(params, tokens, text):
    return jnp.sum(embedded(tokens), axis=-2) + (0.0 if text is None else text)


def step(params, text, cache, token, position):
    cache = cache + embedded(token)
    return logprobs(params, text + cache), cache


MODEL = TextModel(
    marker=MARKER,
    begin=lambda question: jnp.concatenate([question, jnp.full_like(question[:, :1], 6)], axis=1),
    found=lambda passages: jnp.concatenate(
        [passages.reshape(*passages.shape[:2], -1), jnp.full((*passages.shape[:2], 1), 5)], axis=-1
    ),
    read=read,
    init_cache=lambda params, text, length: jnp.zeros_like(text),
    step=step,
    states=lambda params, tokens: jnp.cumsum(embedded(tokens), axis=-2),
    logprobs=logprobs,
    values=lambda params, states: states[..., 0],
)
QUESTION = PROMPT[None, :1]


def passage_of(query):
    """Row of what is found for a query: by its words; the empty one where it has none."""
    return np.where(np.any(query != PAD_ID, axis=-1), np.sum(query, axis=-1) % 2, 2)


def search(query):
    row = jnp.where(jnp.any(query != PAD_ID, -1), jnp.sum(query, -1) % 2, 2)[..., None]
    topk = TopK(row, jnp.zeros(row.shape), row < 2)
    return topk, jnp.asarray(PASSAGES)[row]


def segments():
    """All that can be written at a time: words, and at most one end."""
    for first in (*WORDS, EOS_ID, MARKER):
        if first in (EOS_ID, MARKER):
            yield (first, PAD_ID)
            continue
        for second in (*WORDS, EOS_ID, MARKER):
            yield (first, second)


def all_texts():
    """{tokens: (log p, answer, searches)} in NumPy and float64."""
    told = {}

    def go_on(tokens, total, count):
        real = [token for token in tokens if token != PAD_ID]
        for written in segments():
            seen, gain = list(real), 0.0
            for token in written:
                if token == PAD_ID:
                    continue
                scores = np.tanh(TABLE[seen].sum(0)) @ WRITE
                weight = np.exp(scores) * ~NEVER
                gain += np.log(weight[token] / weight.sum())
                seen.append(token)
            asks, rest = MARKER in written, SEARCHES - count
            if asks and rest:
                query = np.array([token if token in WORDS else PAD_ID for token in written])
                found = (*PASSAGES[passage_of(query)], 5)
                go_on((*tokens, *written, *found), total + gain, count + 1)
                continue
            padding = (PAD_ID,) * (rest * (3 + T))
            answer = (PAD_ID,) * T if asks else written
            told[(*tokens, *written, *padding)] = (total + gain, answer, count)

    go_on((*PROMPT,), 0.0, 0)
    return told


ALL = all_texts()


def drawn(key, count):
    return write_texts(
        MODEL, jnp.ones(()), key, question=jnp.asarray(QUESTION), search=search, k=1, texts=count,
        searches=SEARCHES, length=T,
    )  # fmt: skip


def test_all_texts_have_a_probability_of_one_together():
    assert len(ALL) > 100
    np.testing.assert_allclose(sum(np.exp(row[0]) for row in ALL.values()), 1.0, atol=1e-9)


def test_log_p_of_every_text_is_that_of_its_written_tokens():
    tokens = jnp.asarray(list(ALL))
    places = written_places(len(PROMPT), 3, SEARCHES, T)
    states = MODEL.states(None, tokens)
    told = MODEL.logprobs(jnp.ones(()), states[:, places - 1])
    said = tokens[:, places]
    each = jnp.take_along_axis(told, said[..., None], axis=-1)[..., 0]
    total = jnp.sum(jnp.where(said != PAD_ID, each, 0.0), axis=-1)
    np.testing.assert_allclose(total, [row[0] for row in ALL.values()], atol=2e-5)


def test_texts_are_drawn_as_often_as_they_are_likely():
    count = 40_000
    texts = jax.device_get(jax.jit(drawn, static_argnums=1)(jax.random.PRNGKey(0), count))
    seen = Counter(map(tuple, texts.tokens[0].tolist()))
    assert set(seen) <= set(ALL)
    chance = {text: np.exp(row[0]) for text, row in ALL.items()}
    statistic = sum(
        (seen[text] - count * p) ** 2 / (count * p) for text, p in chance.items() if count * p > 5
    )
    cells = sum(count * p > 5 for p in chance.values())
    assert statistic < cells + 5 * np.sqrt(2 * cells)
    for place in range(0, count, 997):
        log_p, answer, searches = ALL[tuple(texts.tokens[0, place].tolist())]
        np.testing.assert_allclose(texts.behaviour[0, place].sum(), log_p, atol=2e-5)
        assert tuple(texts.answers[0, place]) == answer
        assert texts.searches[0, place] == searches
        assert (texts.topk.ids[0, place, 0] >= 0) == bool(searches)


def test_the_likeliest_token_is_written_without_a_key():
    texts = jax.device_get(drawn(None, 1))
    tokens = [token for token in texts.tokens[0, 0].tolist() if token != PAD_ID]
    places = written_places(len(PROMPT), 3, SEARCHES, T)
    for place in places:
        token = texts.tokens[0, 0, place]
        if token == PAD_ID:
            continue
        before = [t for t in texts.tokens[0, 0, :place].tolist() if t != PAD_ID]
        scores = np.where(NEVER, -np.inf, np.tanh(TABLE[before].sum(0)) @ WRITE)
        assert token == scores.argmax()
    assert tuple(texts.tokens[0, 0].tolist()) in ALL
    assert tokens[: len(PROMPT)] == list(PROMPT)
    assert len(tokens) > len(PROMPT)
