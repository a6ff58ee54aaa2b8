"""A pretrained encoder in a run: its weights, its tokenizer, and the rows of text that both make."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_config
import tokenizers
from command_line import the_sentence
from tiny_pretrained import TOKENS, write_dpr, write_pretrained, write_tokenizer
from tiny_task import TinyTask, write_tiny_files

from ragjax.agents.adaptive_retrieval.reader import TrainedReader
from ragjax.cli import main
from ragjax.data.prepared import PreparedText
from ragjax.data.pretrained_encoding import pretrained_corpus_encoder
from ragjax.data.pretrained_tokenizer import PretrainedTokenizer
from ragjax.envs.text_lookup import TextLookup
from ragjax.errors import UserError
from ragjax.models.adapters import Lora, QueryOnly
from ragjax.models.encoder import BagEncoder, PerceptronEncoder
from ragjax.models.pretrained import load
from ragjax.models.pretrained.encoder import PretrainedEncoder
from ragjax.models.pretrained.tokenizer_files import tokenizer_json
from ragjax.models.retrieval_policy import RetrievalPolicy
from ragjax.models.retriever import Dense
from ragjax.retrieval.embeddings import StoredEmbeddings
from ragjax.training.program import starting_state
from ragjax.training.step import make_step
from ragjax.types import PAD_ID

Q, P = 12, 20  # tokens that the encoder reads of a question and of a passage


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_pretrained(tmp_path_factory.mktemp("pretrained") / "mini")


def encoder_of(source, **fields):
    return PretrainedEncoder(str(source), question_length=Q, passage_length=P, **fields)


def config_of(source, **objective):
    """The tiny run with a pretrained retriever, whose words stay as they are."""
    config = tiny_config.get_config()
    plain = {"rename_retriever": 0.0, "corrupt_words": 0.0} | objective
    return dataclasses.replace(
        config,
        retriever=Dense(encoder_of(source), initial_scale=5.0, refresh_every=3),
        objective=dataclasses.replace(config.objective, **plain),
    )


def told(error):
    return the_sentence(f"ragjax: {error.value}\n")


@pytest.fixture(scope="module")
def learner(source):
    return config_of(source).create()


@pytest.fixture(scope="module")
def state(learner):
    return starting_state(learner, (0,))


def test_training_begins_with_the_weights(state, source):
    loaded = load(source)
    jax.tree.map(np.testing.assert_array_equal, state.params["retriever"]["query"], loaded.params)


def test_a_row_holds_what_the_reader_reads_and_then_what_the_retriever_reads(learner, source):
    text, plain = learner.text, PreparedText.make(learner.text.spec, TinyTask().generate())
    split = plain.corpus.tokens.shape[1]
    np.testing.assert_array_equal(text.corpus.tokens[:, :split], plain.corpus.tokens)
    own = text.corpus.tokens[:, split:]
    assert own.shape[1] == P
    words = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json"))
    words.no_truncation()
    words.no_padding()
    for row, passage in zip(own, text.corpus.passages, strict=True):
        ids = words.encode(passage.text).ids
        assert TOKENS[ids[0]] == "[CLS]"
        if len(ids) > P:  # cut before the token that ends it
            ids = [*ids[: P - 1], ids[-1]]
        assert list(row) == ids + [PAD_ID] * (P - len(ids))
    questions = learner.encode(TinyTask().generate().splits["dev"]).arrays.question
    assert questions.shape[1] == text.spec.question_length + Q


def test_the_retriever_reads_words_that_the_reader_leaves_out(learner):
    one, other = (
        learner.encode((dataclasses.replace(question, question=asked),)).arrays.question
        for question in TinyTask().generate().splits["dev"][:1]
        for asked in ("Where does Zzyzx live?", "Where does Qqfoo live?")
    )
    split = learner.text.spec.question_length
    np.testing.assert_array_equal(one[:, :split], other[:, :split])
    assert np.any(one[:, split:] != other[:, split:])


def test_embeddings_are_those_of_the_loaded_model(learner, state, source):
    loaded = load(source)
    own = learner.corpus[:, -P:]
    wanted = jax.jit(loaded.module.apply)({"params": loaded.params}, own, own != PAD_ID)
    got = jax.jit(learner.model.retriever.index)(state.params, learner.corpus)
    np.testing.assert_allclose(got, wanted, atol=1e-6)
    by_length = dataclasses.replace(learner.config.retriever.encoder, buckets=3, remat=True)
    module = by_length.build(0, jnp.float32)
    params = {"params": loaded.params}

    def total(apply):
        return jax.jit(jax.value_and_grad(lambda p: jnp.sum(apply(p) ** 3)))(params)

    narrow = total(lambda p: module.apply(p, own, None, 0))
    full = total(lambda p: loaded.module.apply(p, own, own != PAD_ID))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), narrow, full)
    empty = jax.jit(learner.model.retriever.embed)(state.params, 0 * learner.corpus[:1])
    np.testing.assert_array_equal(empty, 0)


def test_what_is_read_does_not_hang_on_the_retrievers_tokens(learner, state):
    """The reader's encoding is that of a model whose rows hold its own tokens alone."""
    arrays = learner.encode(TinyTask().generate().splits["dev"]).arrays
    question = jnp.asarray(arrays.question[:2])
    passages = learner.corpus[:6].reshape(2, 3, -1)
    encode = jax.jit(learner.model.encode)
    memory = encode(state.params, question, passages)
    other = jnp.concatenate([passages[..., :-P], passages[..., -P:][..., ::-1]], axis=-1)
    same = encode(state.params, question, other)
    jax.tree.map(np.testing.assert_array_equal, memory, same)
    assert memory.passage.shape[-1] == learner.text.spec.passage_length


def test_a_run_with_it(source, tmp_path, capsys):
    """Trained, evaluated, asked and indexed from the command line, as any other."""
    config = tmp_path / "config.py"
    config.write_text(
        "import dataclasses, tiny_config\n"
        "from ragjax.models.pretrained.encoder import PretrainedEncoder\n"
        "from ragjax.models.retriever import Dense\n\n\n"
        "def get_config():\n"
        "    config = tiny_config.get_config()\n"
        "    objective = dataclasses.replace(\n"
        "        config.objective, rename_retriever=0.0, corrupt_words=0.0\n"
        "    )\n"
        f"    encoder = PretrainedEncoder({str(source)!r}, '', {Q}, {P})\n"
        "    return dataclasses.replace(\n"
        "        config, retriever=Dense(encoder, refresh_every=3), objective=objective\n"
        "    )\n"
    )
    run = tmp_path / "run"
    assert main(["train", str(config), "--run-dir", str(run)]) == 0
    trained = json.loads((run / "result.json").read_text())
    assert main(["evaluate", str(run)]) == 0
    again = json.loads((run / "result.json").read_text())
    assert {name: trained[name] for name in ("em", "mrr", "selective")} == {
        name: again[name] for name in ("em", "mrr", "selective")
    }
    capsys.readouterr()
    assert main(["answer", str(run), "Where does Ada live?", "--force", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["passages"]) == 5
    # its tokenizer may not change any more
    own = run / "retriever_tokenizer.json"
    before = own.read_bytes()
    own.write_bytes(before.replace(b"quiet", b"quite"))
    assert main(["answer", str(run), "Where does Ada live?"]) == 2
    assert own.name in capsys.readouterr().err
    own.write_bytes(before)
    # a corpus is embedded with its tokenizer, and nothing of a question is unknown to it
    passages = tmp_path / "more.jsonl"
    passages.write_text('{"id": "1", "text": "Zzyzx is a town."}\n{"id": "2", "text": "Ada."}\n')
    index = tmp_path / "index"
    assert main(["index", "build", str(passages), str(index), "--run", str(run)]) == 0
    capsys.readouterr()
    assert main(["index", "search", str(index), "Zzyzx is a town.", "--k", "1"]) == 0
    assert "Zzyzx" in capsys.readouterr().out
    with pytest.raises(UserError) as error:  # an agent's queries are written by its reader
        TrainedReader.load(run)
    assert "tokenizer of its own" in told(error)


# ---- what is refused


def test_renamed_words_are_refused(source):
    for objective in ({"rename_retriever": 0.5}, {"corrupt_words": 0.1}):
        with pytest.raises(UserError) as error:
            config_of(source, **objective).create()
        assert "tokenizer of its own" in told(error)


def test_two_encoders_share_a_tokenizer(source, tmp_path):
    twin = write_pretrained(tmp_path / "twin", seed=1)
    retriever = Dense(encoder_of(source), encoder_of(twin))
    assert retriever.reads.lengths == (Q, P)
    assert set(retriever.pretrained()) == {"observed", "stored"}
    write_tokenizer(twin / "tokenizer.json", (*TOKENS[:-1], "other"))
    for other in (encoder_of(twin), BagEncoder()):
        with pytest.raises(UserError) as error:
            _ = Dense(encoder_of(source), other).reads
        assert "different tokenizers" in told(error)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: (path / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (lambda path: (path / "tokenizer.json").write_text("{"), "not a readable tokenizer"),
        (
            lambda path: write_tokenizer(path / "tokenizer.json", (*TOKENS, "more")),
            f"has {len(TOKENS) + 1} tokens",
        ),
        (
            lambda path: write_tokenizer(path / "tokenizer.json", ("other", *TOKENS[1:])),
            "has 'other' as token 0",
        ),
        (lambda path: shutil.rmtree(path), "does not exist"),
    ],
)
def test_what_does_not_fit_is_refused(spoil, words, source, tmp_path):
    path = shutil.copytree(source, tmp_path / "copy")
    spoil(path)
    with pytest.raises(UserError) as error:
        config_of(path).create()
    assert words in told(error)


def test_fields_are_checked(source):
    for fields, words in (
        ({"source": ""}, "encoder.source is empty"),
        ({"question_length": 3}, "encoder.question_length is 3"),
        ({"passage_length": 41}, "40 positions"),
        ({"part": "generator"}, "no part 'generator'"),
    ):
        with pytest.raises(UserError) as error:
            _ = PretrainedEncoder(**{"source": str(source)} | fields).reads
        assert words in told(error)


def test_policies_refuse_it(source):
    env = TextLookup(adjectives=3, nouns=2).vectorise(2)
    for retriever in (
        Dense(encoder_of(source), PerceptronEncoder(width=8)),
        Dense(encoder_of(source)),
    ):
        with pytest.raises(UserError) as error:
            RetrievalPolicy(k=2, retriever=retriever).build(env)
        assert told(error).startswith("policy.retriever.encoder has a tokenizer of its own")


# ---- by itself


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The tiny task's passages and questions as files."""
    directory = tmp_path_factory.mktemp("corpus")
    write_tiny_files(directory)
    return directory


def test_an_encoder_embeds_a_corpus_without_a_run(source, corpus, tmp_path, capsys):
    passages, index = str(corpus / "passages.tsv"), tmp_path / "index"
    build = ["index", "build", passages, str(index), "--encoder"]
    assert main([*build, str(source)]) == 0
    assert "30 embeddings of 8 numbers" in capsys.readouterr().out
    loaded = load(source)
    words = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json"))
    words.no_truncation()
    words.no_padding()
    stored = StoredEmbeddings(index / "embeddings").rows
    apply = jax.jit(loaded.module.apply)
    for row, passage in list(zip(stored, TinyTask().generate().passages, strict=True))[:3]:
        ids = jnp.asarray([words.encode(f"{passage.title} {passage.text}").ids])[:, :40]
        ids = ids.at[:, -1].set(TOKENS.index("[SEP]"))
        wanted = apply({"params": loaded.params}, ids, ids > 0)[0]
        np.testing.assert_allclose(row, wanted, atol=1e-5)
    # questions are embedded by the same; where it lies makes no difference, but another one is refused
    search = ["index", "search", str(index), "Where does Zzyzx live?", "--k", "2"]
    assert main(search) == 0
    assert "note" not in capsys.readouterr().out
    assert main([*search[:3], "Where does Zzyzx live? " * 40, "--k", "2"]) == 0
    assert "note: the ends of 1 of 1 questions are not read" in capsys.readouterr().out
    moved = shutil.copytree(source, tmp_path / "moved")
    assert main([*build, str(moved)]) == 0
    gone = ["index", "build", passages, str(tmp_path / "gone"), "--encoder", str(moved)]
    assert main(gone) == 0
    shutil.rmtree(moved)
    assert main(["index", "search", str(tmp_path / "gone"), "Who?"]) == 2
    assert "which is not there any more" in capsys.readouterr().err
    assert main([*gone[:-1], str(source)]) == 0  # the same encoder, elsewhere
    assert main(["index", "search", str(tmp_path / "gone"), "Who?"]) == 0
    other = write_pretrained(tmp_path / "other", seed=3)
    assert main([*build, str(other)]) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*build, str(source)]) == 0
    capsys.readouterr()
    questions = ["--questions", str(corpus / "questions.jsonl"), "--json"]
    assert main(["index", "evaluate", str(index), *questions]) == 0
    assert json.loads(capsys.readouterr().out)["questions"] == 84


def test_questions_may_have_an_encoder_of_their_own(corpus, tmp_path, capsys):
    """As DPR's two, which read title and text as two segments."""
    passages, index = str(corpus / "passages.tsv"), str(tmp_path / "index")
    paths = [str(write_dpr(tmp_path / name, seed)) for seed, name in enumerate(("its", "asked"))]
    build = ["index", "build", passages, index, "--encoder", paths[0], "--query-encoder"]
    assert main([*build, paths[1]]) == 0
    searched = ["index", "search", index, "Where does Zzyzx live?", "--k", "3", "--json"]
    capsys.readouterr()
    assert main(searched) == 0
    told = json.loads(capsys.readouterr().out)["passages"]
    words = tokenizers.Tokenizer.from_str(tokenizer_json(tmp_path / "its", "", ""))

    def embedded(path, text):
        model, ids = load(path), jnp.asarray([words.encode(text).ids])
        return np.asarray(model.module.apply({"params": model.params}, ids, ids > 0))[0]

    query = embedded(paths[1], "Where does Zzyzx live?")
    scores = {
        each.id: float(query @ embedded(paths[0], f"{each.title} [SEP] {each.text}"))
        for each in TinyTask().generate().passages
    }
    best = sorted(scores, key=lambda name: -scores[name])[:3]
    assert [hit["id"] for hit in told] == best
    assert [hit["score"] for hit in told] == pytest.approx([scores[name] for name in best], 1e-4)
    narrow = str(write_dpr(tmp_path / "narrow", 1, hidden_size=4))
    for given, sentence in (
        ([*build, narrow], "embed in different widths"),
        ([*build[:4], "--query-encoder", paths[1]], "there is no --encoder of passages"),
        ([*build, paths[0]], "was made with another encoder"),
    ):
        assert main(given) == 2
        assert sentence in the_sentence(capsys.readouterr().err)
    shutil.rmtree(paths[1])
    assert main(searched) == 2
    assert f"the encoder {paths[1]}, which is not there" in the_sentence(capsys.readouterr().err)


def test_an_encoder_reads_as_much_as_its_files_say(source, tmp_path):
    path = shutil.copytree(source, tmp_path / "copy")
    assert pretrained_corpus_encoder(path).spec.reads.lengths == (40, 40)
    (path / "sentence_bert_config.json").write_text('{"max_seq_length": 12}')
    assert pretrained_corpus_encoder(path).spec.reads.lengths == (12, 12)


def test_a_run_and_an_encoder_are_too_many(source, corpus, tmp_path, capsys):
    words = ["index", "build", str(corpus / "passages.tsv"), str(tmp_path / "index")]
    assert main([*words, "--run", "nowhere", "--encoder", str(source)]) == 2
    assert "leave out the other" in the_sentence(capsys.readouterr().err)
    assert main([*words, "--encoder", str(corpus / "passages.tsv")]) == 2
    assert "is a file" in the_sentence(capsys.readouterr().err)
    assert main([*words, "--encoder", str(tmp_path)]) == 2
    assert "config.json" in the_sentence(capsys.readouterr().err)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    "trained",
    [Lora(rank=2, parts=("retriever",)), pytest.param(QueryOnly(), marks=pytest.mark.slow)],
)
def test_adapters_or_the_queries_encoder_alone_learn(trained, source):
    """What is trained moves, and what is taken out is else what was loaded."""
    config, apart = config_of(source), isinstance(trained, QueryOnly)
    if apart:
        dense = dataclasses.replace(
            config.retriever, query_encoder=encoder_of(source), train_passages=False
        )
        config = dataclasses.replace(config, retriever=dense)
    config = dataclasses.replace(config, trained=trained, phases=config.phases[:1])
    learner = config.create()
    state = starting_state(learner, (0,))
    step = jax.jit(make_step(learner, learner.stages[0]))
    moved = state
    for number in range(2):  # the first step has no rate yet
        moved, _ = step(moved, learner.feed(0, number), learner.hyper, learner.data)
    before, after = (learner.exported(each) for each in (state, moved))
    loaded = dict(jax.tree_util.tree_leaves_with_path(load(source).params))
    for name, model in before.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(model.params):
            np.testing.assert_array_equal(leaf, loaded[path], err_msg=name)
    changed = {
        name: [
            jax.tree_util.keystr(path)
            for path, leaf in jax.tree_util.tree_leaves_with_path(model.params)
            if np.any(leaf != loaded[path])
        ]
        for name, model in after.items()
    }
    assert all("kernel" in path for paths in changed.values() for path in paths) or apart
    assert sum(map(bool, changed.values())) == 1


def test_two_encoders_read_their_own_texts(source):
    """Questions as the encoder of questions says, passages as that of passages says."""
    asking = encoder_of(source, question_prefix="which ")
    asking = dataclasses.replace(asking, question_length=9)
    storing = encoder_of(source, passage_prefix="town ", title_separator=" [SEP] ")
    for retriever in (Dense(storing, asking), Dense(storing)):
        own = PretrainedTokenizer(retriever.reads)
        questions, _ = own.questions(["where"])
        passages, _ = own.passages(["quiet"])
        asked = retriever.query_encoder is not None
        which = [TOKENS.index("which")] if asked else []
        assert questions.shape == (1, 9 if asked else Q)
        assert passages.shape == (1, P)
        assert questions[0, : 3 + asked].tolist() == [2, *which, TOKENS.index("where"), 3]
        assert passages[0, :4].tolist() == [2, TOKENS.index("town"), TOKENS.index("quiet"), 3]
        assert own.reads.title_separator == " [SEP] "


@pytest.mark.parametrize("buckets", [1, 3])
@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_a_text_without_tokens_is_found_by_nothing(pooling, buckets, source, tmp_path):
    """It is embedded as zeros, beside others that are not."""
    path = shutil.copytree(source, tmp_path / "copy")
    if pooling == "first":
        (path / "modules.json").unlink()
    module = encoder_of(path, buckets=buckets).build(0, jnp.float32)
    tokens = jnp.asarray([[2, 9, 3, 0], [0, 0, 0, 0], [2, 3, 0, 0]])
    embedded = module.apply({"params": load(path).params}, tokens, None, 1)
    assert np.any(embedded, axis=-1).tolist() == [True, False, True]
