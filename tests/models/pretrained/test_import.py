"""`ragjax import`: pretrained models become a run, and `ragjax export` takes them out again."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import the_sentence
from tiny_pretrained import CONFIG, TOKENS, write_pretrained
from tiny_reader import CONFIGS, tokenizer_of, write_reader

import ragjax
from ragjax.cli import main
from ragjax.models.pretrained import load, load_rag, save
from ragjax.models.pretrained.checkpoint import write_checkpoint
from ragjax.models.pretrained.loading import KINDS
from ragjax.models.pretrained.parameters import tensors_of
from ragjax.models.pretrained.text_encoder import Pooling
from ragjax.models.retriever import Dense
from ragjax.objectives.likelihood import RagSequence
from ragjax.retrieval.bm25 import BM25

QUESTION = "Where does Ada live?"
SHORT = (
    *("--tokenizer.question_length", "12", "--tokenizer.passage_length", "20"),
    *("--tokenizer.answer_length", "6"),
)
ENCODER = ("--retriever.encoder.question_length", "12", "--retriever.encoder.passage_length", "20")
ASKED = tuple(word.replace("encoder.", "query_encoder.") for word in ENCODER)


def drawn(kind, config, seed):
    """A model's parameters, and the tensors of its directory."""
    sizes = KINDS[kind].sizes.from_config(config, "", ())
    module = KINDS[kind].module(sizes, *([Pooling()] if kind == "dpr" else []))
    given = jnp.ones((1, 2), jnp.int32)
    arguments = (given, given > 0, given)[: KINDS[kind].arguments]
    params = jax.jit(module.init)(jax.random.PRNGKey(seed), *arguments)["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    prefix = KINDS[kind].prefixes[0]
    return tensors_of(params, prefix, KINDS[kind].strip)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A RAG model, the encoder of its passages, an encoder, a reader and a file of passages."""
    root = tmp_path_factory.mktemp("models")
    asking = CONFIG | {"model_type": "dpr", "projection_dim": 0}
    writing = CONFIGS["bart"] | {"model_type": "bart"}
    config = {"model_type": "rag", "architectures": ["RagSequenceForGeneration"], "n_docs": 2}
    config |= {"question_encoder": asking, "generator": writing}
    tensors = {
        f"rag.{part}.{name}": array
        for part, kind, own, seed in (
            ("question_encoder", "dpr", asking, 1),
            ("generator", "bart", writing, 2),
        )
        for name, array in drawn(kind, own, seed).items()
    }
    write_checkpoint(root / "rag", config, tensors)
    words = "".join(f"{token}\n" for token in TOKENS)
    (root / "rag/question_encoder_tokenizer").mkdir()
    (root / "rag/question_encoder_tokenizer/vocab.txt").write_text(words)
    (root / "rag/generator_tokenizer").mkdir()
    tokenizer_of("bart").save(str(root / "rag/generator_tokenizer/tokenizer.json"))
    write_checkpoint(root / "context", asking, drawn("dpr", asking, 3))
    (root / "context/vocab.txt").write_text(words)
    write_pretrained(root / "mini")
    write_reader(root / "llama", "llama", max_position_embeddings=160)
    rows = [
        {"id": str(n), "title": t, "text": f"{t} lives in {place}."}
        for n, (t, place) in enumerate([("Ada", "Arles"), ("Ben", "Bonn"), ("Zoe", "Zadar")])
    ]
    rows.insert(1, {"id": "empty", "title": "Eva", "text": ""})
    (root / "passages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture(scope="module")
def imported(models, tmp_path_factory):
    """The run of the RAG model."""
    run = tmp_path_factory.mktemp("imported") / "run"
    words = ["import", models / "rag", run, "--passages", models / "passages.jsonl"]
    words += ["--encoder", models / "context", *SHORT, *ENCODER, *ASKED]
    assert main([str(word) for word in words]) == 0
    return run


def test_a_rag_model_becomes_a_run(imported, models):
    """Its parameters, its kind and depth; passages embedded by the other encoder, title apart."""
    run = ragjax.load_run(imported)
    assert isinstance(run.config.objective, RagSequence)
    assert run.config.evaluation.k == 2
    assert run.step == 0
    assert run.config.tokenizer.title_separator == " / "
    assert run.learner.report.notes == ("1 of 4 passages have no text and are left out",)
    read = run.learner.text.corpus.tokens[0][:20]
    assert run.learner.text.tokenizer.decode(read).startswith("Ada / Ada lives")
    params = run.state.params["retriever"]
    asking, context = load(models / "rag", "question_encoder"), load(models / "context")
    jax.tree.map(np.testing.assert_array_equal, params["observed"], asking.params)
    jax.tree.map(np.testing.assert_array_equal, params["stored"], context.params)

    own = run.learner.text.own
    tokens = ("[CLS]", "a", "##d", "##a", "[SEP]", "a", "##d", "##a", "lives", "in")
    row = run.learner.text.corpus.tokens[0][-20:]
    assert row[: len(tokens)].tolist() == [TOKENS.index(token) for token in tokens]
    embed = lambda model, rows: model.module.apply({"params": model.params}, rows, rows != 0)  # noqa: E731
    asked, _ = own.questions([QUESTION])
    rows = run.learner.text.corpus.tokens[:, -20:]
    scores = (embed(asking, jnp.asarray(asked)) @ embed(context, jnp.asarray(rows)).T)[0]
    best = np.argsort(-scores)[:2]
    told = run.answer(QUESTION, force=True)["passages"]
    prior = dict(zip(best.tolist(), jax.nn.softmax(scores[best]).tolist(), strict=True))
    assert {int(passage["id"]): passage["prior"] for passage in told} == pytest.approx(
        prior, rel=1e-4
    )


def test_it_is_asked_and_measured_from_the_command_line(imported, capsys):
    assert main(["answer", str(imported), QUESTION, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["passages"]) == 2
    assert any("not calibrated" in note for note in told["notes"])
    assert main(["evaluate", str(imported)]) == 2
    assert "no test questions" in the_sentence(capsys.readouterr().err)


def test_a_whole_rag_model_is_taken_out(imported, models, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["export", str(imported), str(out)]) == 0
    assert capsys.readouterr().out.split() == [str(out / "rag"), str(out / "passage_encoder")]
    before, after = load_rag(models / "rag"), load_rag(out / "rag")
    jax.tree.map(np.testing.assert_array_equal, before.params, after.params)
    assert before.kind == after.kind == "sequence"
    for file in ("question_encoder_tokenizer/vocab.txt", "generator_tokenizer/tokenizer.json"):
        assert (out / "rag" / file).read_bytes() == (models / "rag" / file).read_bytes()
    jax.tree.map(
        np.testing.assert_array_equal,
        load(models / "context").params,
        load(out / "passage_encoder").params,
    )
    assert (out / "passage_encoder/vocab.txt").exists()


def test_a_rag_model_is_saved_with_other_parameters(models, tmp_path):
    path = shutil.copytree(models / "rag", tmp_path / "rag")
    (path / "generation_config.json").write_text('{"num_beams": 3}')
    model = load_rag(path)
    moved = jax.tree.map(lambda leaf: leaf + 1, model.params)
    save(tmp_path / "moved", model, moved)
    assert (tmp_path / "moved/generation_config.json").read_text() == '{"num_beams": 3}'
    jax.tree.map(np.testing.assert_array_equal, load_rag(tmp_path / "moved").params, moved)


@pytest.mark.parametrize("encoder", ["", "mini"])
def test_a_reader_becomes_a_run(encoder, models, tmp_path, capsys, monkeypatch):
    """Found by BM25, or by an encoder at unit length; wherever it is used from."""
    monkeypatch.chdir(models)
    words = ["import", "llama", str(tmp_path / "run"), "--passages", "passages.jsonl", *SHORT]
    words += ["--encoder", encoder, *ENCODER] if encoder else []
    assert main(words) == 0
    monkeypatch.chdir(tmp_path)
    run = ragjax.load_run("run")
    assert isinstance(run.config.retriever, Dense if encoder else BM25)
    assert run.config.evaluation.k == 3  # of five that are asked for
    assert run.config.reader.template.startswith("<|im_start|>user")  # which its tokenizer knows
    if encoder:
        assert run.config.retriever.initial_scale == 20.0
    capsys.readouterr()
    assert main(["answer", "run", QUESTION, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = {passage["id"] for passage in told["passages"]}
    assert found == ({"0", "1", "2"} if encoder else {"0"})  # words in common


def test_what_can_not_become_a_run_is_said(models, imported, tmp_path, capsys):
    passages, run = str(models / "passages.jsonl"), str(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    for words, told in (
        (("rag", run), "hold no encoder of passages; add --encoder"),
        (("context", run), "writes no text"),
        (("gone", run), "does not exist"),
        (("llama", str(imported), *SHORT), "already holds a run"),
        (("llama", run), "choose smaller lengths"),
        (("llama", run, "--encoder", str(models / "llama"), *SHORT), "is no encoder of texts"),
        (("llama", run, "--no.such", "1"), "--no.such"),
        (("../empty", run), "config.json"),
    ):
        source, *rest = words
        source = str(tmp_path / "empty") if source == "../empty" else str(models / source)
        assert main(["import", source, *rest, "--passages", passages]) == 2
        assert told in the_sentence(capsys.readouterr().err), words
        assert not (tmp_path / "run/config.json").exists()
    assert main(["import", str(models / "llama"), run]) == 2
    assert "--passages" in the_sentence(capsys.readouterr().err)


def test_a_run_that_was_moved_away_from_its_model_says_so(models, tmp_path, capsys):
    shutil.copytree(models / "llama", tmp_path / "llama")
    run, passages = str(tmp_path / "run"), str(models / "passages.jsonl")
    assert main(["import", str(tmp_path / "llama"), run, "--passages", passages, *SHORT]) == 0
    shutil.rmtree(tmp_path / "llama")
    capsys.readouterr()
    assert main(["answer", run, QUESTION]) == 2
    assert "llama does not exist" in the_sentence(capsys.readouterr().err)
