"""A user's own table and goals: what is read, and what each fault is told by."""

import json

import pytest

from ragjax.envs.dialogue.movie_booking import MovieBooking
from ragjax.envs.dialogue.movie_booking_files import read_showings
from ragjax.envs.dialogue.movie_booking_knowledge import Goal
from ragjax.errors import UserError

ROW = {"moviename": "heat", "city": "york"}
GOAL = {"inform_slots": {"moviename": "heat"}, "request_slots": {"date": "UNK", "ticket": "UNK"}}


@pytest.fixture
def read(tmp_path):
    """Writes a table and goals, as text or as what JSON is made of, and reads them."""

    def call(table=None, goals=None, table_name="table.json", goals_name="goals.json"):
        paths = []
        for name, content, default in ((table_name, table, [ROW]), (goals_name, goals, [GOAL])):
            content = default if content is None else content
            path = tmp_path / name
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                path.write_text(content if isinstance(content, str) else json.dumps(content))
            paths.append(path)
        return read_showings(*paths)

    return call


def test_what_is_read(read):
    showings = read({"0": ROW | {"price": 9}, "1": {"date": None, "city": ""}}, [GOAL, GOAL])
    assert showings.rows == ({"city": "york", "moviename": "heat", "price": "9"}, {})
    assert showings.goals == (Goal({"moviename": "heat"}, ("date",)),) * 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("table.jsonl", '{"moviename": "heat", "city": "york"}\n\n{"city": "bath"}\n'),
        ("table.tsv", "moviename\tcity\nheat\tyork\n\tbath\n"),
        ("table.csv", "moviename,city\nheat,york\n,bath\n"),
    ],
)
def test_kinds_of_tables(read, name, text):
    assert read(text, table_name=name).rows == (
        {"city": "york", "moviename": "heat"},
        {"city": "bath"},
    )


def test_goals_as_lines_with_a_list_of_requests(read):
    line = json.dumps({"inform_slots": {"city": "york"}, "request_slots": ["theater", "date"]})
    assert read(goals=line, goals_name="goals.jsonl").goals == (
        Goal({"city": "york"}, ("date", "theater")),
    )


SPREAD = '[\n {"city": "york"},\n {"city": "bath",\n  "city": "york"}\n]'


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("[]", "table.json, line 1: there are no rows; "),
        ("[{}]", "table.json, line 1: all rows are empty; "),
        (
            '[\n{"city": "york"},\n{"town": "york"}]',
            "table.json, line 3: the row names slot 'town', ",
        ),
        ('{"a": {"": "york"}}', "table.json, line 1: the row has a slot without a name; "),
        (SPREAD, "table.json, line 3: the row names slot 'city' twice; "),
        (
            '[\n{"city": "a\\tb"}]',
            "table.json, line 2: the row has city 'a\\tb', which holds a tab ",
        ),
        ('[{"city": "a\\nb"}]', "table.json, line 1: the row has city 'a\\nb', which holds a tab "),
        (
            '[{"city": ["york"]}]',
            "table.json, line 1: the row has city ['york'], which is no text; ",
        ),
        (
            '[{"city": "\\ud800"}]',
            "table.json, line 1: the row has city '\\ud800', which holds half ",
        ),
        ("[\n3]", "table.json, line 2: the row is no object of slots; "),
        ("3", "table.json, line 1 begins neither an object nor a list; "),
        ("", "table.json, line 1 begins neither an object nor a list; "),
        ('[\n{"city": york}]', "table.json, line 2 is not JSON (Expecting value); "),
        ('[{"city": "york"}', "table.json, line 1 is not JSON (it ends too soon "),
        ('[{"city": "york"} {}]', "table.json, line 1 is not JSON (expecting ','); "),
        ('[{"city": "york"}]\n3', "table.json, line 2 goes on after the end of the rows; "),
        (b'[\n{"city": "\xff"}]', "table.json, line 2 is not UTF-8 "),
        (
            b"\x80\x04]",
            "table.json, line 1 is a pickle, which can run any code when it is read; convert it to "
            "JSON.",
        ),
        (b"(dp1\nI0\n(dp2\n", "table.json, line 1 is a pickle, "),
    ],
)
def test_faults_of_a_table(read, table, message):
    with pytest.raises(UserError) as error:
        read(table)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("table.p", "", "table.p, line 1 is a pickle, "),
        ("table.pkl.gz", "", "table.pkl.gz, line 1 is a pickle, "),
        ("table.tsv", "city\tcity\nyork\tbath\n", "table.tsv, line 1 names two columns alike "),
        (
            "table.tsv",
            "city\t\nyork\tbath\n",
            "table.tsv, line 2: the row has a slot without a name; ",
        ),
        ("table.tsv", "city\ttown\nyork\tbath\n", "table.tsv, line 2: the row names slot 'town', "),
        ("table.tsv", "city\n", "table.tsv, line 1: there are no rows; "),
        ("table.csv", 'city,date\n"a\nb",today\n', "table.csv, line 2: the row has city 'a\\nb', "),
        ("table.txt", "city", "table.txt is no .jsonl, .csv, .tsv file "),
    ],
)
def test_faults_of_other_kinds_of_tables(read, name, text, message):
    with pytest.raises(UserError) as error:
        read(text, table_name=name)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        ({"request_slots": {}}, 'line 1: the goal has no "inform_slots"; '),
        ({"inform_slots": {}}, 'line 1: "inform_slots" is empty; '),
        (
            {"inform_slots": {"town": "york"}},
            "line 1: \"inform_slots\" names slot 'town', which is unknown; ",
        ),
        (
            {"inform_slots": ROW, "request_slots": ["town"]},
            "line 1: \"request_slots\" names slot 'town', ",
        ),
        (
            {"inform_slots": ROW, "request_slots": 3},
            'line 1: "request_slots" is no object of slots; ',
        ),
        ({"inform_slots": ROW, "request_slots": ["city"]}, "both gives and requests city; "),
        ({"inform_slots": ROW, "request_slots": ["date", "date"]}, "names slot 'date' twice; "),
        ([], 'line 1: the goal has no "inform_slots"; '),
    ],
)
def test_faults_of_goals(read, goal, message):
    with pytest.raises(UserError) as error:
        read(goals=[goal])
    assert message in str(error.value)


def test_there_are_goals(read):
    with pytest.raises(UserError, match=r"goals\.json, line 1: there are no goals; "):
        read(goals="[]")


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"table\.json can't be read \(No such file"):
        MovieBooking(table=str(tmp_path / "table.json"), goals="goals.json").build()


def test_a_table_wants_goals():
    with pytest.raises(UserError, match=r"One of env\.table and env\.goals names a file "):
        MovieBooking(table="table.json")


def test_the_environment_is_over_the_user_s_table(tmp_path):
    (tmp_path / "table.json").write_text(json.dumps([ROW] * 3))
    (tmp_path / "goals.json").write_text(json.dumps([GOAL]))
    paths = {name: str(tmp_path / f"{name}.json") for name in ("table", "goals")}
    knowledge = MovieBooking(**paths).knowledge()
    assert knowledge.cells.shape == (3, 29)
    assert knowledge.constraints.shape == (1, 29)
    held_out = MovieBooking(**paths, users="held_out")
    with pytest.raises(
        UserError, match=r"env\.users is 'held_out', but of 1 goals none is held out"
    ):
        held_out.build()
