"""Search within the model's own text: what is written and found, by hand; and what learns of it."""

import copy
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_pretrained import write_pretrained
from tiny_reader import write_reader

from ragjax.cli import main
from ragjax.config import load_config
from ragjax.decoding.searching import written_places
from ragjax.errors import UserError
from ragjax.models.pretrained.encoder import PretrainedEncoder
from ragjax.models.pretrained.searching import SearchWords
from ragjax.models.retriever import Dense
from ragjax.objectives.answer_reward import AnswerReward, Samples
from ragjax.objectives.search_reward import SearchReward, nearest
from ragjax.ops.sequence_policy import GENERATED, PADDING, PROMPT, RETRIEVED
from ragjax.retrieval.fixed import Oracle
from ragjax.training.program import starting_state
from ragjax.types import EOS_ID, PAD_ID, Question

CONFIG = """
import dataclasses, tiny_config
from ragjax.models.pretrained.reader import PretrainedReader
from ragjax.models.pretrained.encoder import PretrainedEncoder
from ragjax.models.pretrained.searching import SearchWords
from ragjax.models.retriever import Dense
from ragjax.models.pretrained.encoder import PretrainedEncoder
from ragjax.models.pretrained.searching import SearchWords
from ragjax.models.retriever import Dense
from ragjax.objectives.answer_reward import AnswerReward
from ragjax.objectives.rewards import TokenF1
from ragjax.objectives.search_reward import SearchReward


def get_config():
    config = tiny_config.get_config()
    words = SearchWords(prompt="Q:{{question}} A:", found=" [{{passage}} ]", marker={marker!r})
    return dataclasses.replace(
        config,
        tokenizer=dataclasses.replace(
            config.tokenizer, question_length=30, passage_length=16, answer_length=4
        ),
        reader=PretrainedReader({source!r}, search=words),
        objective=SearchReward(
            reward=AnswerReward(samples=2, reward=TokenF1(), {reward}), searches={searches},
            query_length=5,
        ),
    )
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_reader(
        tmp_path_factory.mktemp("search") / "llama", "llama", max_position_embeddings=256
    )


@pytest.fixture(scope="module")
def config_of(source, tmp_path_factory):
    def write(reward="", searches=2, marker="e"):
        path = tmp_path_factory.mktemp("config") / "config.py"
        fields = {"source": str(source), "reward": reward, "searches": searches}
        path.write_text(CONFIG.format(marker=marker, **fields))
        return path

    return write


MARKER = 73  # "e" in the reader's numbers
ALL = "advantage='gae', updates=2, kl_coef=0.3, entropy_coef=0.1, whiten=True"


def leaning(logprobs):
    """Distributions in which queries and answers end soon; a drawn model hardly knows how."""
    tokens = jnp.arange(logprobs.shape[-1])
    more = jnp.where(tokens == MARKER, 4.5, jnp.where(tokens == EOS_ID, 3.0, 0.0))
    return jax.nn.log_softmax(logprobs + more, axis=-1)


class World:
    """A tiny run that searches, its first batch, and texts that it wrote."""

    def __init__(self, path):
        self.config = load_config(path)
        self.learner = self.config.create()
        state = self.learner.finish(starting_state(self.learner, (0,)))
        self.params, self.index = self.learner.whole(state), state.index.embeddings
        self.encoded = self.learner.encode(self.learner.task.splits["dev"][:4])
        self.batch = jax.tree.map(jnp.asarray, self.encoded.arrays)
        context = self.learner.context(2)
        text = context.model.text
        self.model = text._replace(
            step=lambda *given: (leaning(text.step(*given)[0]), text.step(*given)[1]),
            logprobs=lambda *given: leaning(text.logprobs(*given)),
        )
        self.context = context._replace(model=context.model._replace(text=self.model))
        self.objective, self.corpus = self.config.objective, self.learner.corpus

    def draw(self, seed):
        arrays = {"corpus": self.corpus, "index": self.index}
        draw = jax.jit(
            lambda params, key: self.objective.sample(
                self.context, params, key, self.batch, **arrays
            )[1]
        )
        return draw(self.params, jax.random.PRNGKey(seed))


@pytest.fixture(scope="module")
def world(config_of):
    return World(config_of(ALL))


@pytest.fixture(scope="module")
def drawn(world):
    # Rewards at will: drawn models give no right answer.
    return world.draw(0).replace(reward=jnp.linspace(0.0, 1.0, 8).reshape(4, 2))


def parts_of(world, texts):
    """[(kind, tokens [B,G,n])] of the layout."""
    prompt = jax.eval_shape(world.model.begin, world.batch.question).shape[-1]
    searches, length = world.objective.searches, texts.answers.shape[-1]
    found = (texts.tokens.shape[-1] - prompt - (searches + 1) * length) // searches
    parts, place = [("prompt", texts.tokens[..., :prompt])], prompt
    for number in range(searches + 1):
        for kind, width in (("written", length), ("found", found))[: 2 - (number == searches)]:
            parts.append((kind, texts.tokens[..., place : place + width]))
            place += width
    assert place == texts.tokens.shape[-1]
    return parts


def test_texts_are_written_as_they_say(world, drawn):
    texts, marker = jax.device_get(drawn.texts), world.model.marker
    assert marker == MARKER
    tokenizer = world.learner.text.tokenizer
    parts = parts_of(world, texts)
    assert {0, 1} <= set(np.minimum(texts.searches, 1).ravel().tolist())
    for b in range(4):
        question = world.encoded.questions[b].question
        for g in range(2):
            row = [(kind, part[b, g]) for kind, part in parts]
            assert question in tokenizer.decode(row[0][1]).replace("  ", " ")
            active, count, answer = True, 0, np.zeros(texts.answers.shape[-1], np.int32)
            for number, (kind, tokens) in enumerate(row[1:]):
                real = tokens[tokens != PAD_ID]
                if kind == "written":
                    if not active:
                        assert len(real) == 0
                        continue
                    ends = np.flatnonzero(np.isin(real, (EOS_ID, marker)))
                    assert len(ends) == 0 or list(ends) == [len(real) - 1]  # nothing after an end
                    asks = len(ends) > 0 and real[-1] == marker
                    answer = answer if asks else tokens
                    active = bool(asks)
                elif active:
                    count += 1
                    query = row[number][1]
                    has_words = np.any((query != PAD_ID) & (query != marker))
                    text = tokenizer.decode(real)
                    assert text.endswith("]")
                    assert (len(real) > 1) == has_words
                else:
                    assert len(real) == 0
            assert texts.searches[b, g] == count
            np.testing.assert_array_equal(texts.answers[b, g], answer)
            np.testing.assert_array_equal(texts.topk.ids[b, g] >= 0, texts.topk.valid[b, g])
    kinds = {"prompt": PROMPT, "written": GENERATED, "found": RETRIEVED}
    wanted = [np.where(part != PAD_ID, kinds[kind], PADDING) for kind, part in parts]
    np.testing.assert_array_equal(texts.source, np.concatenate(wanted, axis=-1))


def test_what_is_found_is_nearest_to_the_query(world, drawn):
    texts, marker = jax.device_get(drawn.texts), world.model.marker
    written = [part for kind, part in parts_of(world, texts) if kind == "written"]
    found = [part for kind, part in parts_of(world, texts) if kind == "found"]
    retriever = world.context.model.retriever
    for query, told in zip(written, found, strict=False):
        for b, g in np.argwhere(np.any(query == marker, axis=-1)):
            words = np.where(query[b, g] == marker, PAD_ID, query[b, g])
            if not words.any():
                continue
            asked = retriever.query(world.params, jnp.asarray(words)[None])
            topk = retriever.search(world.index, asked, 2)
            passages = world.corpus[topk.ids[0]]
            wanted = world.model.found(passages[None, None])[0, 0]
            np.testing.assert_array_equal(told[b, g], wanted)


def test_what_is_hidden_is_not_found(world):
    """As a calibration asks: without the passages that hold the answer."""
    text = world.context.model.text

    def asking(params, texts, cache, token, position):
        """A word, and then the marker of a query."""
        logprobs, cache = text.step(params, texts, cache, token, position)
        wanted = jnp.arange(logprobs.shape[-1]) == jnp.where(position > 0, MARKER, MARKER + 1)
        return jnp.where(wanted, 0.0, logprobs - 100.0), cache

    model = world.context.model._replace(text=text._replace(step=asking))
    context = world.context._replace(model=model)
    arrays = {"corpus": world.corpus, "index": world.index, "length": 4}

    @jax.jit
    def found(hidden):
        objective = world.objective
        return objective.answer(context, world.params, world.batch, hidden=hidden, **arrays)

    plain, _, decoded = found(jnp.full((4, 1), -1))
    assert jnp.all(plain.valid)
    np.testing.assert_array_equal(decoded.query[:, 0], MARKER + 1)
    assert not jnp.any(decoded.query[:, 1:])
    others = found(plain.ids[:, :1])[0]
    assert not jnp.any(others.valid & (others.ids == plain.ids[:, :1]))


def test_behaviour_is_the_probability_of_the_whole_text(world, drawn):
    """Step by step with caches, and all at once: the same log p."""
    places, _, logprobs = world.objective._read(
        world.model, world.params, world.batch.question, drawn.texts
    )
    texts = jax.device_get(drawn.texts)
    said = texts.tokens[..., places]
    told = np.take_along_axis(np.asarray(logprobs), said[..., None], axis=-1)[..., 0]
    written = texts.source[..., places] == GENERATED
    np.testing.assert_allclose(told[written], texts.behaviour[written], atol=3e-5)
    np.testing.assert_array_equal(texts.behaviour[~written], 0.0)
    # By the model's plain scores of a text without any padding.
    module = world.config.reader.build(world.learner.text.tokenizer.vocab_size, jnp.float32)
    params = {"params": world.params["reader"]}
    for b, g in ((0, 0), (1, 1), (3, 0)):
        tokens = texts.tokens[b, g]
        kept = np.flatnonzero(tokens != PAD_ID)
        row = jnp.asarray(tokens[kept])[None, None]
        states = module.apply(params, row, method="text_states")
        plain = leaning(module.apply(params, states, method="next_logprobs"))[0, 0]
        for order, place in enumerate(places):
            if written[b, g, order]:
                at = int(np.searchsorted(kept, place))
                np.testing.assert_allclose(
                    plain[at - 1, tokens[place]], texts.behaviour[b, g, order], atol=3e-5
                )


def gradient_of(world, drawn, reference=None):
    arrays = {"corpus": world.corpus, "index": world.index, "samples": drawn}
    key = jax.random.PRNGKey(1)

    def total(params):
        loss = world.objective.loss(
            world.context, params, key, world.batch, reference=reference, **arrays
        )
        return loss.sum, loss

    return jax.jit(jax.grad(total, has_aux=True))(world.params)


def test_the_loss_is_that_of_the_whole_sequence_with_nan_at_what_was_found(world, drawn):
    """All terms over [B,G,L] with the source mask, where retrieved and prompt tokens hold NaN."""
    reference = jax.tree.map(lambda leaf: 0.9 * leaf, world.params)
    _, loss = gradient_of(world, drawn, reference)
    texts, reward = drawn.texts, world.objective.reward
    places = world.objective._read(world.model, world.params, world.batch.question, texts)[0]

    def everywhere(params):
        _, states, logprobs = world.objective._read(
            world.model, params, world.batch.question, texts
        )
        said = np.take_along_axis(
            np.asarray(logprobs), np.asarray(texts.tokens)[..., places][..., None], axis=-1
        )[..., 0]
        entropy = -np.sum(np.exp(logprobs) * np.asarray(logprobs), axis=-1)
        return [put(each) for each in (said, entropy, world.model.values(params, states))]

    def put(values):
        full = np.full(texts.tokens.shape, np.nan, np.float32)
        full[..., places] = np.asarray(values)
        return jnp.asarray(full)

    log_probs, entropy, values = everywhere(world.params)
    costs = reward.costs_of(
        Samples(texts.tokens, put(texts.behaviour), drawn.reward, put(drawn.values)),
        jnp.asarray(texts.source),
        world.batch.weight,
        log_probs=log_probs,
        near=everywhere(reference)[0],
        entropy=entropy,
        values=values,
    )
    np.testing.assert_allclose(loss.sum, sum(costs.terms), rtol=2e-5)
    for name in ("kl", "entropy", "value_loss", "clipped"):
        np.testing.assert_allclose(
            loss.metrics[name][0], costs.metrics[name][0], rtol=1e-4, atol=1e-6
        )


def test_nothing_learns_of_tokens_that_were_found(world, drawn):
    """Logits, values and log p of retrieved places changed: no bit of loss and gradient changes."""
    texts = drawn.texts
    retrieved = jnp.asarray(texts.source == RETRIEVED)
    after = jnp.concatenate([retrieved[..., 1:], jnp.zeros_like(retrieved[..., :1])], axis=-1)

    def disturbed(scale):
        """States out of which retrieved tokens would be predicted, moved."""
        inner = world.model.states

        def states(params, tokens):
            found = inner(params, tokens)
            return found + scale * jnp.where(after[..., None], 1.0, 0.0) * jnp.sin(
                jnp.arange(found.shape[-1])
            )

        text = world.model._replace(states=states)
        model = world.context.model._replace(text=text)
        changed = copy.copy(world)
        changed.context = world.context._replace(model=model)
        return gradient_of(changed, drawn, world.params)

    plain, moved = (disturbed(scale) for scale in (0.0, 5.0))
    assert np.any(np.asarray(after))
    jax.tree.map(np.testing.assert_array_equal, plain, moved)


def test_the_retriever_gets_no_gradient_and_the_reader_one(world, drawn):
    gradient, loss = gradient_of(world, drawn, world.params)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(gradient["retriever"]))
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient["reader"]))
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient["critic"]))
    searches = np.mean(drawn.texts.searches, axis=-1)
    weight = np.asarray(world.batch.weight)
    np.testing.assert_allclose(loss.metrics["searches"][0], np.sum(searches * weight), rtol=1e-5)


def test_places():
    np.testing.assert_array_equal(written_places(3, 4, 1, 2), [3, 4, 9, 10])
    np.testing.assert_array_equal(written_places(2, 1, 2, 1), [2, 4, 6])


def test_queries_are_read_again_by_a_retriever_with_its_own_tokenizer(config_of, tmp_path):
    encoder = write_pretrained(tmp_path / "mini")
    config = load_config(config_of("", 1))
    dense = Dense(PretrainedEncoder(str(encoder), question_length=12, passage_length=16))
    learner = dataclasses.replace(config, retriever=dense).create()
    state = learner.finish(starting_state(learner, (0,)))
    params, context = learner.whole(state), learner.context(2)
    tokenizer, texts = learner.text.tokenizer, ["Ada lives", "the town of Ugo"]
    rows, _ = tokenizer.encode_batch(texts, 20)
    query = jnp.asarray(np.stack([rows, 0 * rows]))  # two queries, and two without words
    topk = jax.jit(lambda q: nearest(context, params, q, state.index.embeddings))(query)
    asked = learner.encode(
        tuple(Question(str(n), text, ("",), (), "", "") for n, text in enumerate(texts))
    ).arrays.question
    retriever = context.model.retriever
    wanted = retriever.search(
        state.index.embeddings, retriever.query(params, jnp.asarray(asked)), 2
    )
    np.testing.assert_array_equal(topk.ids[0], wanted.ids)
    np.testing.assert_allclose(topk.scores[0], wanted.scores, atol=1e-5)
    assert np.all(topk.ids[1] == -1)
    assert not np.any(topk.valid[1])


STEPS = ("--phases.0.steps", "3", "--phases.1.steps", "1", "--optimizer.warmup_steps", "1")


def test_a_run_searches_and_answers(config_of, tmp_path, capsys):
    path, whole = config_of("", 1), tmp_path / "run"
    assert main(["train", str(path), "--run-dir", str(whole), *STEPS]) == 0
    capsys.readouterr()
    assert main(["answer", str(whole), "Where does Ada live?", "--json", "--force"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told) >= {"answer", "probability", "passages", "query"}
    assert bool(told["query"]) == bool(told["passages"])
    assert main(["answer", str(whole), "Where does Ada live?", "--force"]) == 0
    shown = capsys.readouterr().out
    assert f"  searched for: {told['query'] or '(nothing)'}\n" in shown
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert any("searches" in row for row in rows)


def test_what_can_not_search_is_refused(world, config_of, capsys):
    with pytest.raises(UserError, match="looked up before training"):
        SearchReward().check(Oracle(), 1)
    with pytest.raises(UserError, match=r"objective\.searches is 0"):
        SearchReward(searches=0)
    with pytest.raises(UserError, match=r"objective\.reward\.weight is 0"):
        SearchReward(reward=AnswerReward(weight=0.0))
    arrays = {"corpus": world.corpus, "index": world.index}
    blind = world.context._replace(model=world.context.model._replace(text=None))
    with pytest.raises(UserError, match="needs a reader that searches"):
        world.objective.sample(blind, world.params, jax.random.PRNGKey(0), world.batch, **arrays)
    assert main(["train", str(config_of(marker="<nothing>")), "--check"]) == 2
    assert "reader.search.marker is '<nothing>'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompt": "no slot"}, "reader.search.prompt"),
        ({"prompt": "ends {question}"}, "reader.search.prompt"),
        ({"found": "{passage}{passage} x"}, "reader.search.found"),
        ({"marker": ""}, "reader.search.marker"),
    ],
)
def test_words_are_checked(fields, words):
    given = {"prompt": "Q:{question} A:", "found": " [{passage} ]", "marker": "e"}
    with pytest.raises(UserError, match=words):
        SearchWords(**(given | fields))
