"""Fields of a config given on the command line."""

import dataclasses
import re

import pytest
import tiny_config

from ragjax.errors import UserError
from ragjax.learners.questions import Phase
from ragjax.models.encoder import TransformerEncoder
from ragjax.models.retriever import Dense
from ragjax.overrides import leaf_fields, override, value_of


@pytest.fixture(scope="module")
def config():
    return tiny_config.get_config()


def get(value, path):
    for name in path.split("."):
        value = value[int(name)] if name.isdigit() else getattr(value, name)
    return value


def test_nothing_given(config):
    assert override(config, []) == config


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        pytest.param("seed", "3", 3, id="int"),
        pytest.param("optimizer.reader_rate", "1e-4", 1e-4, id="float"),
        pytest.param("optimizer.max_grad_norm", "2", 2.0, id="whole float"),
        pytest.param("tokenizer.with_title", "True", True, id="bool"),
        pytest.param("objective.from_memory", "True", True, id="nested bool"),
        pytest.param("compute", "bfloat16", "bfloat16", id="literal"),
        pytest.param("objective.documents", "in_batch", "in_batch", id="nested literal"),
        pytest.param("phases.0.steps", "7", 7, id="first of a tuple"),
        pytest.param("phases.1.k", "1", 1, id="second of a tuple"),
        pytest.param("evaluation.k", "3", 3, id="nested int"),
    ],
)
@pytest.mark.parametrize("form", ["--{} {}", "--{}={}", "dashes"])
def test_each_kind_of_field(form, name, text, value, config):
    if form == "dashes":
        arguments = ["--" + name.replace("_", "-"), text]
    else:
        arguments = form.format(name, text).split(" ")
    changed = override(config, arguments)
    assert get(config, name) != value
    assert get(changed, name) == value
    assert type(get(changed, name)) is type(value)
    assert get(changed, "optimizer.b2") == config.optimizer.b2
    fields = leaf_fields(config)
    assert [field for field in fields if get(config, field) != get(changed, field)] == [name]


def test_several_at_once(config):
    changed = override(config, ["--seed", "4", "--phases.1.steps=9", "--phases.1.batch-size", "2"])
    assert (changed.seed, changed.phases[1]) == (4, Phase(steps=9, batch_size=2, k=2))
    assert changed.phases[0] == config.phases[0]


@pytest.mark.parametrize("word", ["4", "+4", "4.0", "0.4e1", "4e0", "4E+0", "0_4"])
def test_a_whole_number_in_any_notation(word, config):
    changed = override(config, ["--seed", word, f"--phases.1.steps={word}"])
    assert (changed.seed, changed.phases[1].steps) == (4, 4)
    assert isinstance(changed.seed, int)
    assert value_of(config, "seed", word) == 4


def test_a_whole_number_that_the_config_refuses_is_one_all_the_same(config):
    """What is wrong beside it is named, and a sweep may try it with other values."""
    with pytest.raises(UserError, match=r"--phases\.0\.k is 'x'; give a whole number"):
        override(config, ["--seed", "1e3", "--phases.0.k", "x"])
    with pytest.raises(UserError, match=r"evaluation\.k is 0; it must be at least 1"):
        override(config, ["--evaluation.k", "0e0"])
    assert value_of(config, "evaluation.k", "0e0") == 0


@pytest.mark.parametrize("text", ["-x", "--seed", "1e3", "a b", ""])
def test_a_text_stays_as_it_is(text, config):
    assert override(config, [f"--start={text}"]).start == text


@pytest.mark.parametrize("word", ["4.5", "45e-1", "1e", "e4", "4__0", "1e999", "0x4"])
def test_what_is_no_whole_number(word, config):
    with pytest.raises(UserError, match=re.escape(f"--seed is '{word}'; give a whole number.")):
        override(config, ["--seed", word])


def test_component_of_a_union(config):
    other = dataclasses.replace(
        config, retriever=Dense(encoder=TransformerEncoder(width=8, layers=1, heads=2))
    )
    changed = override(other, ["--retriever.encoder.layers", "2"])
    assert changed.retriever.encoder.layers == 2
    with pytest.raises(UserError, match=r"--retriever\.encoder\.layers is not a field"):
        override(config, ["--retriever.encoder.layers", "2"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sed", "3"], "--sed is not a field of the config; did you mean --seed?"),
        (["--objective.document", "index"], "did you mean --objective.documents?"),
        (["--reader_rate", "1"], "did you mean --optimizer.reader_rate?"),
        (["--phases.2.steps", "1"], "did you mean --phases."),
        (["--zzz", "1"], "--zzz is not a field of the config; add --help to see all fields."),
        (["--retriever", "big"], "--retriever is not a field of the config; "),
        (["--seed", "x"], "--seed is 'x'; give a whole number."),
        (["--seed", "1.5"], "--seed is '1.5'; give a whole number."),
        (["--seed", ""], "--seed is ''; give a whole number."),
        (
            ["--optimizer.max_grad_norm", "much"],
            "--optimizer.max_grad_norm is 'much'; give a number.",
        ),
        (["--tokenizer.with_title", "yes"], "is 'yes'; give True or False."),
        (["--compute", "float16"], "is 'float16'; give one of float32, bfloat16."),
        (["--phases.0.k", "0", "--seed", "x"], "--seed is 'x'; give a whole number."),
        (["--seed"], "--seed has no value; give a whole number after it."),
        (["--seed", "--compute", "float32"], "--seed has no value; "),
        (["--tokenizer.with_title"], "has no value; give True or False after it."),
        (["seed", "3"], "'seed' is not expected here; fields are given as --name value."),
        (["--seed", "3", "4"], "'4' is not expected here; "),
        (["-s", "3"], "'-s' is not expected here; "),
        (["--seed", "-1"], "seed is -1; it must not be negative."),
        (["--phases.0.k", "0"], "phases.k is 0; it must be at least 1."),
        (["--evaluation.k", "0"], "evaluation.k is 0; it must be at least 1."),
        (["--optimizer.reader_rate", "-1"], "optimizer.reader_rate is -1.0; "),
        (
            ["--optimizer.reader_rate", "nan"],
            "reader_rate is nan; it must be a finite number of at",
        ),
        (
            ["--optimizer.reader_rate", "inf"],
            "reader_rate is inf; it must be a finite number of at",
        ),
        (["--objective.corrupt_words", "2"], "it is a probability, 0 to 1."),
        (["--optimizer.accumulate", "5"], "phases.0.batch_size is 6, "),
    ],
)
def test_refused_in_one_sentence(arguments, message, config, capfd):
    with pytest.raises(UserError) as error:
        override(config, arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")  # no box of tyro's


def test_help_lists_every_field(config, capsys):
    with pytest.raises(SystemExit) as ended:
        override(config, ["--seed", "3", "--help"], "ragjax train tiny.py")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "ragjax train tiny.py" in shown
    for name in leaf_fields(config):
        assert f"--{name.replace('_', '-')} " in shown, name
    assert "micro-batches" in shown  # and says what they are
