"""`ragjax chat`: a person, as lines of standard input, talks to policies of both dialogues."""

import io

import jax.numpy as jnp
import numpy as np
import pytest
from command_line import the_sentence
from wiring import train

from ragjax.cli import main
from ragjax.envs.cartpole import CartPole
from ragjax.envs.dialogue import kb_infobot_belief as beliefs
from ragjax.envs.dialogue.kb_infobot import KBInfoBot
from ragjax.envs.dialogue.kb_infobot_chat import TableConversation
from ragjax.envs.dialogue.kb_infobot_knowledge import token_numbers
from ragjax.envs.dialogue.kb_infobot_rules import EntropyRule
from ragjax.envs.dialogue.kb_infobot_user import Luck
from ragjax.envs.dialogue.movie_booking import MovieBooking
from ragjax.envs.dialogue.movie_booking_acts import ACTIONS, SLOT
from ragjax.envs.dialogue.movie_booking_policies import MovieBookingBaseline
from ragjax.envs.dialogue.tables import TableFile
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.policy import ActorCritic
from ragjax.models.row_retrieval import RowRetrieval, belief_and_rows
from ragjax.objectives.ppo import PPO

TABLE = """name\tcolour\tsize\tplace
ant\tdark red\tsmall\tnorth wood
bee\tyellow\tsmall\tsouth wood
cat\tgrey\tlarge\tnorth town
dog\tdark brown\tlarge\tsouth town
eel\tgrey\tlong\tsouth sea
fox\tred\tlarge\tnorth wood
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "animals.tsv"
    path.write_text(TABLE)
    return TableFile(path, name="name")


@pytest.fixture(scope="module")
def runs(table, tmp_path_factory):
    """Directories of runs: a rule, a policy that names rows, a booking rule, and no dialogue."""
    policies = {
        "rule": (KBInfoBot(table=table, missing=0.0), EntropyRule()),
        "rows": (
            KBInfoBot(table=table, missing=0.0, sees="rows"),
            RowRetrieval(k=6, hidden=(4,), retriever=belief_and_rows(4)),
        ),
        "booking": (MovieBooking(made_rows=40, made_goals=8), MovieBookingBaseline()),
        "cartpole": (CartPole(), ActorCritic(hidden=(4,))),
    }
    found = {}
    for name, (env, policy) in policies.items():
        config = EpisodesConfig(
            env=env,
            algorithm=PPO(num_envs=2, rollout_length=4, epochs=1, minibatches=1),
            policy=policy,
            env_steps=8,
            evaluation=EpisodeEvaluation(episodes=2, every=0),
        )
        found[name] = tmp_path_factory.mktemp("runs") / name
        train(config, found[name])
    return found


def chatted(run_dir, lines, monkeypatch, capsys, *words):
    """The exit code and what is printed where these lines are typed."""
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    code = main(["chat", str(run_dir), *words])
    return code, capsys.readouterr()


def test_a_row_is_found(runs, monkeypatch, capsys):
    code, said = chatted(
        runs["rule"], ["small and red, from the north", "", "", "", "1"], monkeypatch, capsys
    )
    assert code == 0
    lines = said.out.splitlines()
    assert "You look for one of 6 rows, such as ant." in lines[0]
    assert "  (Left aside: 'and', 'from', 'the'.)" in lines
    assert any(line.startswith("  decides: inform ") for line in lines)
    assert any("ant: colour dark red, size small, place north wood" in line for line in lines)
    named = next(line for line in lines if line.startswith("agent> 1. "))
    assert "ant: " in named
    assert lines[-1].startswith("Found: 2.0 for the list")


def test_a_policy_that_names_rows_shows_what_it_retrieves(runs, monkeypatch, capsys):
    code, said = chatted(runs["rows"], ["grey sea", *["sea"] * 12, "0"], monkeypatch, capsys)
    assert code == 0
    lines = said.out.splitlines()
    start = lines.index("  retrieves, with p(d|s)") + 1
    shares = [float(line.split()[0]) for line in lines[start : start + 5]]
    assert shares == sorted(shares, reverse=True)
    assert "eel: colour grey, size long, place south sea" in lines[start]
    assert said.out.count("agent> ") >= 1


def test_the_input_may_end_and_a_dialogue_may_be_left(runs, monkeypatch, capsys):
    for lines in ([], ["grey"], ["grey", "quit"]):
        code, said = chatted(runs["rule"], lines, monkeypatch, capsys)
        assert (code, said.out.splitlines()[-1]) == (0, "The dialogue is left open.")


def test_decisions_are_drawn_by_their_seed(runs, monkeypatch, capsys):
    lines = ["grey"] * 3
    drawn = [
        chatted(runs["rows"], lines, monkeypatch, capsys, "--sampled", "--seed", seed)[1].out
        for seed in ("1", "1", "2", "3", "4")
    ]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1
    assert "(drawn)" in drawn[0]


@pytest.mark.parametrize(
    ("run", "words", "sentence"),
    [
        ("cartpole", [], "The run is not one of a dialogue; name a run of environment kb_infobot"),
        ("rule", ["--seed", "-1"], "--seed is -1; it must not be negative."),
        ("nowhere", [], "nowhere"),
    ],
)
def test_what_can_t_be_talked_to(runs, run, words, sentence, monkeypatch, capsys, tmp_path):
    code, said = chatted(runs.get(run, tmp_path / "nowhere"), [], monkeypatch, capsys, *words)
    assert code == 2
    assert sentence in the_sentence(said.err)


def test_a_person_is_heard_as_the_user_of_the_environment(table):
    """The same words give the same observation, turn by turn, and the same posterior."""
    spec = KBInfoBot(
        table=table, missing=0.0, replaced=0.0, corrupted=0.0, mentioned=0.0, sees="rows"
    )
    env, talk = spec.build(), TableConversation(spec, table.build())
    knows, told = jnp.asarray([True, False, True]), jnp.asarray([True, False, False])
    luck = Luck(*[jnp.ones(3)] * 5, jnp.zeros((3, env.params.knowledge.tokens.shape[1])))
    state, made = spec.begin(env.params, jnp.asarray(0), knows, told, luck)
    assert talk.hear("dark RED") == []
    np.testing.assert_array_equal(talk.observation(), made.observation)
    for slot, line in ((1, ""), (2, "north wood")):
        action = jnp.asarray([slot, 3, 4, 5, 6])
        state, made = spec.advance(env.params, state, action, luck)
        assert talk.act(np.asarray(action)) == [f"What {('colour', 'size', 'place')[slot]}?"]
        talk.hear(line)
        np.testing.assert_array_equal(talk.observation(), made.observation)
    p = beliefs.probabilities(env.params.knowledge, state.belief.counts)
    q = np.exp(beliefs.log_posterior(env.params.knowledge, p, state.belief.dropped))
    assert talk.rows(2)[0] == (0, pytest.approx(q[0]))
    assert "size: left out, for you don't know it" in talk.believed()
    _, made = spec.advance(env.params, state, 3 + jnp.asarray([3, 0, 1, 2, 4]), luck)
    said = talk.act(3 + np.asarray([3, 0, 1, 2, 4]))
    assert [line[0] for line in said[:-1]] == ["1", "2", "3", "4", "5"]
    talk.hear("7")
    assert talk.waits
    talk.hear("2")
    assert (
        talk.ended
        == f"Found: {float(made.reward):.1f} for the list, {float(made.reward) - 0.2:.1f} in all."
    )


def test_what_is_no_answer_gives_no_slot_up(table):
    """Words of another slot count, unknown ones are asked for again; silence gives it up."""
    talk = TableConversation(KBInfoBot(table=table, missing=0.0, sees="words"), table.build())
    assert talk.hear("it is the red one") == [
        "No value of the table has 'one'.",
        "Left aside: 'it', 'is', 'the'.",
    ]
    assert talk.act(np.asarray(1)) == ["What size?"]
    assert talk.hear("hgue")[-1] == "Say it in other words, or an empty line if you don't know."
    assert talk.waits
    before = talk.believed()
    assert talk.hear("north")[-1].startswith("That is no size, but is kept; what size?")
    assert talk.waits
    after = talk.believed()
    assert after[:2] == before[:2]
    assert after[2] != before[2]
    north = token_numbers(table.build())["north"]
    assert north in talk.observation()[9:].astype(int).tolist()  # behind three figures of each slot
    assert talk.hear("I don't know") == []
    assert not talk.waits
    assert talk.believed()[1] == "size: left out, for you don't know it"


def test_more_words_than_are_heard_are_told(table):
    talk = TableConversation(KBInfoBot(table=table), table.build())
    notes = talk.hear("red " * 200)
    assert notes[0].startswith("Of 200 words the last ")


def test_too_many_requests_end_the_dialogue(table):
    talk = TableConversation(KBInfoBot(table=table, max_turns=2), table.build())
    for line in ("red", "small"):
        talk.hear(line)
        talk.act(np.asarray(0))
    assert talk.ended == "Not found: -1.0 for the list, -1.1 in all."


def test_a_ticket_is_booked(runs, monkeypatch, capsys):
    showing = MovieBooking(made_rows=40, made_goals=8).showings.rows[0]
    first = f"{showing['moviename'].upper()}, {showing['date']}; {showing['theater']}?"
    code, said = chatted(runs["booking"], [first, *["any"] * 6, "thanks"], monkeypatch, capsys)
    assert code == 0
    lines = said.out.splitlines()
    assert f"    moviename: {showing['moviename']}" in lines
    assert "agent> Which movie?" in lines
    assert any(line.startswith("agent> I book: ") for line in lines)
    assert lines[-1] == "Booked, with all that you asked for."


def test_lines_become_acts():
    spec = MovieBooking(made_rows=40, made_goals=8)
    rows = spec.showings.rows
    talk = spec.conversation()
    assert talk.hear("gibberish")[0].startswith("Nothing of this is in the table")
    assert talk.waits
    assert talk.hear(f"{rows[0]['moviename']} please") == ["Left aside: please."]
    assert not talk.waits
    parts = spec.build().parts
    sizes = np.cumsum([shape[0] for shape in parts.values()])
    seen = dict(zip(parts, np.split(talk.observation(), sizes[:-1]), strict=True))
    assert np.flatnonzero(seen["user_informs"]).tolist() == [SLOT["moviename"]]
    assert np.flatnonzero(seen["known"]).tolist() == [SLOT["moviename"]]
    assert talk.act(np.asarray(ACTIONS.index(("request", "theater")))) == ["Which theater?"]
    talk.hear("which time?")
    seen = dict(zip(parts, np.split(talk.observation(), sizes[:-1]), strict=True))
    assert np.flatnonzero(seen["user_requests"]).tolist() == [SLOT["starttime"]]
    said = talk.act(np.asarray(ACTIONS.index(("inform", "starttime"))))
    times = [row["starttime"] for row in rows if row.get("moviename") == rows[0]["moviename"]
             and "starttime" in row]  # fmt: skip
    assert said[0].removeprefix("time: ") in times
    talk.act(np.asarray(ACTIONS.index(("thanks", None))))
    assert talk.ended == "Nothing was booked."


@pytest.mark.parametrize("told_before", [True, False])
def test_a_booking_without_what_was_asked_for_is_said(told_before):
    """What is told after the booking is not in it, though another showing of the film has it."""
    spec = MovieBooking(made_rows=40, made_goals=8)
    talk = spec.conversation()
    assert talk is not None
    shown: dict[str, list] = {}
    for row in spec.showings.rows:
        shown.setdefault(row.get("moviename", ""), []).append(row)
    del shown[""]
    film, date = next(
        (film, row["date"])
        for film, rows in shown.items()
        for row in rows
        if row.get("date", rows[0].get("date")) != rows[0].get("date")
    )
    booking = np.asarray(ACTIONS.index(("inform", "taskcomplete")))
    talk.hear(film)
    if told_before:
        talk.hear(date)
    said = talk.act(booking)
    assert (f"date {date}" in said[0]) == told_before
    talk.hear(date)
    talk.act(np.asarray(ACTIONS.index(("thanks", None))))
    if told_before:
        assert talk.ended == "Booked, with all that you asked for."
    else:
        assert talk.ended == f"Booked, but without what you asked for: date {date}."
