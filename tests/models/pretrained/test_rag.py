"""RAG models of transformers: "hf" semantics against goldens, "paper" against sums over all answers."""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.errors import UserError
from ragjax.models.pretrained import load, rag_model
from ragjax.models.pretrained.loading import KINDS
from ragjax.models.pretrained.parameters import tensors_of
from ragjax.models.pretrained.rag import load_rag

GOLDENS = Path(__file__).parents[2] / "goldens"
NAMES, RAG = ("rag", "rag_t5"), ("sequence", "token")
LENGTH = 9


def golden(name):
    """Inputs as arrays of JAX, and what transformers said of them."""
    with np.load(GOLDENS / name / "golden.npz") as arrays:
        return {
            key: part if "/" in key else jnp.asarray(part) for key, part in dict(arrays).items()
        }


def given(told, *more) -> dict[str, Any]:
    contexts = ("context_input_ids", "context_attention_mask")
    return {name: told[name] for name in (*contexts, *more)}


QUESTION = ("input_ids", "attention_mask", "retrieved_doc_embeds")


def close(got, wanted, to=1e-4):
    np.testing.assert_allclose(got, wanted, atol=to * np.abs(wanted).max(), rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_queries_logits_and_marginals_are_those_of_transformers(name):
    told = golden(name)
    model = load_rag(GOLDENS / name, "token", "hf")

    @jax.jit
    def run(params):
        query = model.query(params, told["input_ids"], told["attention_mask"])
        scores = model.doc_scores(query, told["retrieved_doc_embeds"])
        logits = model.logits(params, **given(told), decoder_input_ids=told["labels"])
        marginal = model.marginal_logprobs(
            params, **given(told), doc_scores=scores, labels=told["labels"]
        )
        return query, scores, logits, marginal

    for part, key in zip(
        run(model.params), ("query", "doc_scores", "logits", "marginal"), strict=True
    ):
        close(part, told[key])


@pytest.mark.parametrize(
    ("stated", "given_here", "early"),
    [(True, None, True), (True, False, False), (False, True, True), (None, None, False)],
)
def test_an_option_that_is_given_comes_before_the_files(stated, given_here, early, monkeypatch):
    beams = []

    def stopped(*given, beam, **named):
        beams.append(beam)
        raise StopIteration

    monkeypatch.setattr(rag_model, "generated", stopped)
    model = load_rag(GOLDENS / "rag", "token", "hf")
    generation = {**model.generation, "early_stopping": stated}
    told = golden("rag")
    with pytest.raises(StopIteration):
        replace(model, generation=generation).generate(
            model.params, **given(told, *QUESTION), early_stopping=given_here
        )
    assert [beam.early_stopping for beam in beams] == [early]


@pytest.mark.parametrize("kind", RAG)
@pytest.mark.parametrize("name", NAMES)
def test_losses_are_those_of_transformers(name, kind):
    told, model = golden(name), load_rag(GOLDENS / name, kind, "hf")
    cases = list(
        itertools.product(("labels", "labels_with_bos"), (0.0, 0.1), (False, True), (False, True))
    )

    @jax.jit
    def run(params):
        return [
            model.loss(
                params,
                **given(told, *QUESTION),
                labels=told[labels],
                label_smoothing=smoothing,
                exclude_bos_score=excludes,
                reduce_loss=reduced,
            )
            for labels, smoothing, excludes, reduced in cases
        ]

    for case, got in zip(cases, run(model.params), strict=True):
        wanted = told[f"{kind}/" + "/".join(map(str, case))]
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, rtol=1e-5, err_msg=str(case))
    if (name, kind) == ("rag", "sequence"):  # the option is seen only where all rows begin with bos
        assert np.all(
            told["sequence/labels/0.0/True/False"] == told["sequence/labels/0.0/False/False"]
        )
        assert np.all(
            told["sequence/labels_with_bos/0.0/True/False"]
            < told["sequence/labels_with_bos/0.0/False/False"]
        )


@pytest.mark.parametrize("kind", RAG)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_as_long_as_those_of_transformers(name, kind):
    told, model = golden(name), load_rag(GOLDENS / name, kind, "hf")

    def loss(params, smoothing):
        return model.loss(
            params,
            **given(told, *QUESTION),
            labels=told["labels"],
            label_smoothing=smoothing,
            reduce_loss=True,
        )

    @jax.jit
    def run(params):
        return [jax.grad(lambda p, s=s: loss(p, s))(params) for s in (0.0, 0.1)]

    for smoothing, gradients in zip((0.0, 0.1), run(model.params), strict=True):
        norms = {}
        for part in ("question_encoder", "generator"):
            loaded = load(GOLDENS / name, part)
            named = tensors_of(gradients[part], loaded.prefix, KINDS[loaded.kind].strip)
            norms |= {f"rag.{part}.{key}": np.linalg.norm(leaf) for key, leaf in named.items()}
        wanted = dict(
            zip(told[f"{kind}/gradient_names"], told[f"{kind}/gradients/{smoothing}"], strict=True)
        )
        used = {key: norm for key, norm in wanted.items() if key in norms}
        assert all(norm == 0 for key, norm in wanted.items() if key not in norms)
        assert sum("question_encoder" in key for key in used) > 20
        largest = max(used.values())
        for key, norm in used.items():
            # That of a bias of keys is 0 but for rounding.
            np.testing.assert_allclose(
                norms[key], norm, rtol=1e-4, atol=1e-6 * largest, err_msg=key
            )


@pytest.mark.parametrize("kind", RAG)
@pytest.mark.parametrize("name", NAMES)
def test_written_ids_are_those_of_transformers(name, kind):
    told, model = golden(name), load_rag(GOLDENS / name, kind, "hf")
    first = told["labels_with_bos"][0, 1] if (name, kind) == ("rag", "sequence") else 5
    for beams, forced in itertools.product((1, 4), (False, True)):
        # transformers is told so by an argument of generate, here by the generator's config.
        writing = replace(model.writing, first=int(first) if forced else None)
        changed = replace(model, writing=writing)

        def run(params, model=changed, beams=beams):
            options = {"num_beams": beams, "num_return_sequences": min(beams, 2)}
            found = model.generate(params, **given(told, *QUESTION), max_length=LENGTH, **options)
            return found.tokens

        got = np.asarray(jax.jit(run)(model.params)).reshape(-1, LENGTH)
        ids = told[f"{kind}/ids/{beams}/{forced}"]  # cut to the longest
        wanted = np.full_like(got, model.writing.pad)
        wanted[:, : ids.shape[1]] = ids
        np.testing.assert_array_equal(got, wanted)


@pytest.fixture(scope="module")
def tiny():
    """A function: RAG over BART with six tokens, of which padding is never likely."""

    def made(kind, semantics="paper"):
        model = load_rag(GOLDENS / "rag", kind, semantics)
        sizes = replace(model.generator.sizes, vocab_size=6)
        generator = dict(model.params["generator"])
        generator["model.shared"] = {"embedding": generator["model.shared"]["embedding"][:6]}
        generator["final_logits_bias"] = np.array([[0.0, -1e9, 0.5, 0.2, 0.1, -0.3]], np.float32)
        return replace(
            model,
            generator=model.generator.clone(sizes=sizes),
            params=model.params | {"generator": generator},
            writing=replace(model.writing, vocab_size=6, first=None, last=None),
        )

    return made


CONTEXTS: dict[str, Any] = {
    "context_input_ids": jnp.array([[3, 4, 5, 2], [5, 5, 2, 1], [4, 2, 1, 1]]),
    "context_attention_mask": jnp.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]]),
}
SCORES = jnp.array([[1.5, 0.2, -0.7]])
OTHERS, END, PADDING = (0, 3, 4, 5), 2, 1


def answers(length):
    """All answers of at most `length` tokens, ended, or cut at the last."""
    rows = []
    for size in range(length):
        for body in itertools.product(OTHERS, repeat=size):
            rows.append([*body, END] + [PADDING] * (length - size - 1))
    rows += [list(body) for body in itertools.product(OTHERS, repeat=length)]
    return jnp.array(rows)


def many(rows) -> dict[str, Any]:
    """The one question's contexts and scores for each of as many answers."""
    return {
        "doc_scores": jnp.repeat(SCORES, rows, axis=0),
        **{name: jnp.tile(part, (rows, 1)) for name, part in CONTEXTS.items()},
    }


def by_hand(model, labels, kind):
    """log p(y|x) of each answer by loops in numpy."""
    fed = jnp.concatenate([jnp.full_like(labels[:, :1], END), labels[:, :-1]], axis=1)
    contexts = {name: part for name, part in many(len(labels)).items() if name != "doc_scores"}
    logits = jax.jit(lambda p: model.logits(p, **contexts, decoder_input_ids=fed))(model.params)
    probs = np.asarray(jax.nn.softmax(logits), np.float64).reshape(len(labels), 3, -1, 6)
    prior = np.asarray(jax.nn.softmax(SCORES[0]), np.float64)
    totals = []
    for row, target in enumerate(np.asarray(labels)):
        used = [(t, token) for t, token in enumerate(target) if token != PADDING]
        each = np.array([[probs[row, k, t, token] for t, token in used] for k in range(3)])
        totals.append(
            prior @ each.prod(axis=1) if kind == "sequence" else np.prod(prior @ each, axis=0)
        )
    return np.log(totals)


@pytest.mark.parametrize("kind", RAG)
def test_paper_losses_are_the_published_sums_and_all_answers_sum_to_one(tiny, kind):
    model, labels = tiny(kind), answers(3)
    run = jax.jit(lambda params: model.loss(params, **many(len(labels)), labels=labels))
    got = -np.asarray(run(model.params))
    np.testing.assert_allclose(got, by_hand(model, labels, kind), rtol=1e-5)
    np.testing.assert_allclose(np.exp(got).sum(), 1, rtol=1e-5)
    told = jax.jit(
        lambda params: model.marginal_logprobs(params, **many(len(labels)), labels=labels)
    )(model.params)
    own = np.take_along_axis(np.asarray(told), np.asarray(labels)[..., None], -1)[..., 0]
    np.testing.assert_allclose((own * np.asarray(labels != PADDING)).sum(1), got, rtol=1e-5)


def test_hf_probabilities_of_answers_do_not_sum_to_one_in_rag_sequence(tiny):
    """The prior is lost with one-token answers, which then count as K answers."""
    labels, totals = answers(3), {}
    for kind in RAG:
        model = tiny(kind, "hf")
        begun = jnp.concatenate([jnp.full_like(labels[:, :1], END), labels], axis=1)
        losses = jax.jit(
            lambda p, model=model, begun=begun: model.loss(p, **many(len(begun)), labels=begun)
        )
        totals[kind] = np.exp(-np.asarray(losses(model.params)))
        paper = np.exp(by_hand(model, labels, kind))
        differs = np.abs(totals[kind] / paper - 1) > 1e-4
        assert list(differs) == [kind == "sequence" and row[1] == PADDING for row in labels]
    assert abs(totals["token"].sum() - 1) < 1e-5 < 0.1 < totals["sequence"].sum() - 1


@pytest.mark.parametrize("kind", RAG)
def test_paper_beams_find_the_best_of_all_answers(tiny, kind):
    model, labels = tiny(kind), answers(3)
    wanted = by_hand(model, labels, kind)
    best = np.argsort(-wanted)[:5]
    found = jax.jit(
        lambda params: model.generate(
            params,
            **CONTEXTS,
            doc_scores=SCORES,
            num_beams=100,
            num_return_sequences=5,
            max_length=4,
        )
    )(model.params)
    np.testing.assert_array_equal(found.tokens[0, :, 1:], labels[best])
    np.testing.assert_allclose(found.log_prob[0], wanted[best], rtol=1e-5)
    assert np.all(found.tokens[0, :, 0] == END)


def test_one_token_targets_ignore_the_scores_in_hf_and_not_in_paper(tiny):
    labels = {"paper": jnp.array([[3, 1]]), "hf": jnp.array([[2, 3, 1]])}
    apart = {}
    for semantics, given_labels in labels.items():
        model = tiny("sequence", semantics)
        run = jax.jit(
            lambda scores, model=model, given_labels=given_labels: model.loss(
                model.params, **CONTEXTS, doc_scores=scores, labels=given_labels
            )
        )
        apart[semantics] = abs(float((run(SCORES) - run(-SCORES))[0]))
    assert apart["hf"] == 0 < 1e-3 < apart["paper"]


def test_options_of_the_paper_losses(tiny):
    model = tiny("sequence")
    labels = jnp.array([[0, 3, 2], [3, 4, 2]])  # only the first begins with bos

    @jax.jit
    def run(params):
        def loss(labels=labels, **options):
            return model.loss(params, **many(2), labels=labels, **options)

        return (
            loss(),
            loss(exclude_bos_score=True),
            loss(reduce_loss=True),
            loss(label_smoothing=0.1),
            loss(labels=jnp.where(labels == 2, -100, labels)),
            loss(labels=jnp.where(labels == 2, 1, labels)),
            model.marginal_logprobs(params, **many(2), labels=labels),
        )

    plain, without, summed, smooth, hundred, padded, told = run(model.params)
    assert without[0] < plain[0]
    assert without[1] == plain[1]
    np.testing.assert_allclose(summed, plain.sum(), rtol=1e-6)
    np.testing.assert_allclose(smooth, 0.9 * plain - 0.1 * told.mean(-1).sum(-1), rtol=1e-5)
    np.testing.assert_array_equal(hundred, padded)


def test_bos_is_left_out_in_hf_only_where_all_answers_begin_with_it(tiny):
    model = tiny("sequence", "hf")

    @jax.jit
    def run(params, labels):
        return [
            model.loss(params, **many(2), labels=labels, exclude_bos_score=excludes)
            for excludes in (False, True)
        ]

    # The first token is what transformers drops of labels.
    plain, without = run(model.params, jnp.array([[2, 0, 3, 2], [2, 3, 4, 2]]))
    np.testing.assert_array_equal(plain, without)
    plain, without = run(model.params, jnp.array([[2, 0, 3, 2], [2, 0, 4, 2]]))
    assert np.all(without < plain)


def test_options_of_the_whole_model_come_before_those_of_its_generator(tmp_path):
    """Of RAG-Token without a generation_config.json; where the whole is silent, the part speaks."""
    path = shutil.copytree(GOLDENS / "rag", tmp_path / "rag")
    config = json.loads((path / "config.json").read_text())
    config |= {"num_beams": 7, "max_length": None}
    config["generator"] |= {"num_beams": 2, "max_length": 9}
    (path / "config.json").write_text(json.dumps(config))
    (path / "generation_config.json").unlink()
    generation = load_rag(path, "token", "hf").generation
    assert (generation["num_beams"], generation["max_length"]) == (7, 9)


def test_what_is_wrong_is_told():
    with pytest.raises(UserError, match="type 'bart'"):
        load(GOLDENS / "bart", semantics="paper")
    with pytest.raises(UserError, match="both"):
        load(GOLDENS / "rag", "generator", semantics="paper")
    model = load(GOLDENS / "rag", semantics="hf")
    assert (model.kind, model.semantics) == ("token", "hf")  # as config.json names it
    with pytest.raises(UserError, match="no scores"):
        model.loss(model.params, **CONTEXTS, labels=jnp.array([[2, 3]]))
    picky = replace(model, generation={**model.generation, "no_repeat_ngram_size": 3})
    with pytest.raises(UserError, match="no_repeat_ngram_size 3"):
        picky.generate(picky.params, **CONTEXTS, doc_scores=SCORES)
