"""Logs of a policy's choices: what each kind of file gives, and the sentences for bad lines."""

import gzip
import json

import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.data.bandit_logs import load_log, read_rounds
from ragjax.errors import UserError
from ragjax.ops.off_policy import cascade_weights, ips, whole_weights

ROWS = [
    {"context": [0.5, "red"], "action": "b", "position": 2, "propensity": 0.25, "reward": 1},
    {"context": [1.5, "blue"], "action": "a", "position": 1, "propensity": 1.0, "reward": -0.5},
    {"context": [-2, "red"], "action": "c", "position": 1, "propensity": 1e-3, "reward": 0},
]


def as_jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def as_table(rows, delimiter):
    def cell(value):
        text = json.dumps(value) if isinstance(value, list) else str(value)
        return '"' + text.replace('"', '""') + '"' if {delimiter, '"'} & set(text) else text

    lines = [list(rows[0]), *([cell(value) for value in row.values()] for row in rows)]
    return "".join(delimiter.join(line) + "\n" for line in lines)


WRITERS = {
    ".jsonl": as_jsonl,
    ".csv": lambda rows: as_table(rows, ","),
    ".tsv": lambda rows: as_table(rows, "\t"),
}


@pytest.fixture
def write(tmp_path):
    def to(content, name="log.jsonl"):
        path = tmp_path / name
        content = content if isinstance(content, str) else as_jsonl(content)
        data = content.encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return to


def changed(**fields):
    return {**ROWS[0], **fields}


def without(name):
    return {key: value for key, value in ROWS[0].items() if key != name}


@pytest.mark.parametrize("suffix", [*WRITERS, ".jsonl.gz", ".csv.gz"])
def test_every_kind_of_file_gives_the_same(write, suffix):
    log = load_log(write(WRITERS[suffix.removesuffix(".gz")](ROWS), f"log{suffix}"))
    assert log.items == ("a", "b", "c")
    np.testing.assert_array_equal(log.action, [[1], [0], [2]])
    np.testing.assert_array_equal(log.position, [1, 0, 0])
    np.testing.assert_array_equal(log.propensity, [[0.25], [1.0], [1e-3]])
    np.testing.assert_array_equal(log.reward, [[1.0], [-0.5], [0.0]])
    np.testing.assert_array_equal(log.context, [[0.5, 0, 1], [1.5, 1, 0], [-2, 0, 1]])
    assert log.target is None
    assert log.notes == ()


def test_slates_of_unequal_lengths(write):
    rows = [
        {"actions": ["x", "y"], "propensity": [0.5, 0.2], "rewards": [0, 1], "target": [1, 0.3]},
        {"actions": ["z"], "propensity": [0.1], "rewards": [2], "target": [0.0]},
    ]
    log = load_log(write(rows))
    np.testing.assert_array_equal(log.action, [[0, 1], [2, -1]])
    np.testing.assert_array_equal(log.propensity, [[0.5, 0.2], [0.1, 1.0]])
    np.testing.assert_array_equal(log.reward, [[0, 1], [2, 0]])
    np.testing.assert_array_equal(log.target, [[1.0, 0.3], [0.0, 1.0]])
    assert log.context.shape == (2, 0)


def test_a_slate_may_have_one_propensity_and_reward_of_its_own(write):
    rows = [{"actions": ["x", "y"], "propensity": 0.5, "reward": 1, "target": 0.25}] * 2
    log = load_log(write(WRITERS[".csv"](rows), "log.csv"))
    assert log.propensity.shape == log.reward.shape == log.target.shape == (2, 1)
    np.testing.assert_array_equal(log.action, [[0, 1], [0, 1]])


def test_fields_name_columns(write):
    row = {"shown": 7, "p": 0.5, "bought": 1}
    log = load_log(write([row]), fields="action=shown, propensity=p, reward=bought")
    assert log.items == ("7",)
    with pytest.raises(UserError, match=r"^fields has 'click=bought'; write it as column=name"):
        load_log(write([row]), fields="click=bought")


def test_open_bandit_s_form(write):
    """Its columns and names; the numbers are made up."""
    head = ",timestamp,item_id,position,click,propensity_score,user_feature_0,user-item_affinity_0"
    lines = ["0,2019-11-24 00:03:13+00:00,14,3,0,0.25,cef3,0.0", "1,2019-11-24,10,1,1,0.5,03a5,2.0"]
    path = write("\n".join([head, *lines]) + "\n", "log.csv.gz")
    log = load_log(path, context=("user_feature_", "user-item_affinity_"))
    assert log.items == ("10", "14")
    np.testing.assert_array_equal(log.position, [2, 0])
    np.testing.assert_array_equal(log.reward, [[0.0], [1.0]])
    np.testing.assert_array_equal(log.context, [[0, 1, 0], [1, 0, 2]])
    with pytest.raises(UserError, match="no column that begins with other_"):
        load_log(path, context=("other_",))


def test_a_log_of_slates_feeds_the_estimators(write):
    rows = [
        {"action": ["x", "y"], "propensity": [0.5, 0.2], "reward": [0, 1], "target": [1, 0.3]},
        {"action": ["y"], "propensity": [0.1], "reward": [2], "target": [0.05]},
    ]
    log = load_log(write(rows))
    ratio = jnp.asarray(log.target / log.propensity, jnp.float32)
    reward = jnp.asarray(log.reward, jnp.float32)
    whole = ips(reward.sum(axis=1), whole_weights(ratio))
    np.testing.assert_allclose(whole.value, (2 * 1.5 * 1 + 0.5 * 2) / 2, rtol=1e-6)
    cascade = ips(reward, cascade_weights(ratio)[0])
    np.testing.assert_allclose(cascade.value, (2 * 0 + 2 * 1.5 * 1 + 0.5 * 2) / 2, rtol=1e-6)


def test_a_text_that_names_the_round_is_no_context(write):
    """A thousand columns of ones and zeros at most: an id or a time would be one for each round."""
    rows = [changed(context=[0.5, f"user {number % 1000}"]) for number in range(1200)]
    log = load_log(write(rows))
    assert log.context.shape == (1200, 1001)
    np.testing.assert_array_equal(log.context.sum(axis=1), 1.5)
    with pytest.raises(
        UserError, match=r"has 1,001 different texts in entry 2 of the context, each"
    ):
        load_log(write([*rows, changed(context=[0.5, "another"])]))


# Bad lines


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (changed(propensity=0), "'propensity' is 0; a choice that was made had a chance above 0"),
        (changed(propensity=1.5), "'propensity' is 1.5; a choice"),
        (changed(propensity=-0.1), "'propensity' is -0.1; a choice"),
        (changed(propensity="much"), "'propensity' is 'much'; it must be a finite number"),
        (changed(propensity=float("nan")), "'propensity' is nan; it must be a finite number"),
        (changed(propensity=True), "'propensity' is True; it must be a finite number"),
        (changed(propensity=None), "has no 'propensity', without which"),
        (without("propensity"), "has no 'propensity', without which"),
    ],
)
def test_a_log_with_an_impossible_propensity_is_refused_even_so(write, row, sentence):
    path = write([ROWS[1], row])
    with pytest.raises(UserError) as error:
        load_log(path, leave_out_broken=True)
    assert str(error.value).startswith(f"{path}, line 2")
    assert sentence in str(error.value)
    assert ". " not in str(error.value)


BAD = [
    (without("action"), "has no 'action'"),
    (changed(action=""), "has no 'action'"),
    (changed(action=[]), "has no 'action'"),
    (changed(action=1.5), "'action' holds 1.5"),
    (changed(action=["a", ""]), "'action' holds ''"),
    (changed(action=["a", "a"], position=None), "shows 'a' twice"),
    (changed(action=["a", "b"]), "gives a 'position' to a slate"),
    (changed(action=["a", "b", "c"], propensity=[0.1, 0.2]), "has 2 of 'propensity' for 3 items"),
    (without("reward"), "has no 'reward'"),
    (changed(reward="good"), "'reward' is 'good'"),
    (changed(reward=[1, 2]), "has 2 of 'reward' for 1 items"),
    (changed(reward=float("inf")), "'reward' is inf"),
    (changed(target=1.2), "'target' is 1.2; it must be within 0 and 1"),
    (changed(position=0), "'position' is 0; it must be a whole number from 1"),
    (changed(position=1.5), "'position' is 1.5"),
    (changed(context=[1.0]), "has 1 entries of context, but the first round 2"),
    (changed(context=[1.0, None]), "'context' holds None"),
    (changed(context=[1.0, "inf"]), "'context' holds 'inf'"),
    (
        changed(context=[1e39, "red"]),
        "'context' holds 1e+39; write finite numbers, at most 3.4e+38",
    ),
    ("[1, 2]", "is not a JSON object"),
    ("{", "is not JSON"),
]


@pytest.mark.parametrize(("row", "sentence"), BAD)
def test_broken_lines_are_named_and_counted(write, row, sentence):
    bad = row + "\n" if isinstance(row, str) else as_jsonl([row])
    path = write(as_jsonl(ROWS[:2]) + bad + as_jsonl(ROWS[2:]) + "nothing\n")
    with pytest.raises(UserError) as error:
        load_log(path)
    assert str(error.value).startswith(
        f"{path} has 2 of 5 lines that can't be read (lines 3, 5), the first because {path}, line 3"
    )
    assert sentence in str(error.value)
    log = load_log(path, leave_out_broken=True)
    assert len(log.action) == 3
    assert [number for number, _ in log.broken] == [3, 5]
    assert log.notes == ("2 of 5 lines can't be read and are left out (lines 3, 5)",)
    with pytest.raises(UserError, match="line 3"):
        list(read_rounds(path))


def test_broken_lines_of_a_table(write):
    text = 'action,propensity,reward\na,0.5,1\nb,0.5\nc,0.5,1\nd"d,0.5,"x"y\ne,0.5,0\n'
    log = load_log(write(text, "log.csv"), leave_out_broken=True)
    assert log.items == ("a", "c", "e")
    assert [number for number, _ in log.broken] == [3, 5]
    assert "has 2 cells, but the first line names 3 columns" in log.broken[0][1]


def test_a_table_whose_first_line_is_broken_has_no_columns(write):
    """The next line is no header in its place."""
    path = write('action,"propensity"x,reward\na,0.5,1\nb,0.5,1\n', "log.csv")
    with pytest.raises(UserError, match=r"line 1 can't be read"):
        load_log(path, leave_out_broken=True)


def test_many_broken_lines_are_not_all_listed(write):
    path = write(as_jsonl(ROWS) + "nothing\n" * 12)
    with pytest.raises(
        UserError, match=r"12 of 15 lines .* \(lines 4, 5, .*, 13 and 2 more\), the"
    ):
        load_log(path)


def test_reading_is_a_stream(write):
    """The first rounds are there before a later line is looked at."""
    rounds = read_rounds(write(as_jsonl(ROWS) + "nothing\n"))
    assert [next(rounds).actions for _ in ROWS] == [("b",), ("a",), ("c",)]
    with pytest.raises(UserError, match="line 4 is not JSON"):
        next(rounds)


@pytest.mark.parametrize("name", ["propensity", "reward", "target"])
def test_wholes_and_places_are_not_mixed(write, name):
    slate = {"action": ["a", "b"], "propensity": 0.5, "reward": 1.0, "target": 0.5}
    path = write([slate, {**slate, name: [0.5, 0.5]}])
    with pytest.raises(
        UserError, match=r"for the slate of line 1, and one for each place in line 2"
    ):
        load_log(path)


def test_targets_of_some_rounds_and_empty_files_are_refused(write):
    with pytest.raises(UserError, match="has a target in 1 of 2 rounds"):
        load_log(write([ROWS[0], changed(target=0.5)]))
    with pytest.raises(UserError, match="holds no round"):
        load_log(write(""))
    with pytest.raises(UserError, match="can't be read"):
        load_log(write([]).with_name("missing.jsonl"))
