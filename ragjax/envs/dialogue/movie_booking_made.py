"""A made table of showings with made goals, shaped like TC-Bot's: none of it is anybody's data."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from ragjax.envs.dialogue.movie_booking_acts import SLOTS
from ragjax.envs.dialogue.movie_booking_knowledge import Goal, Showings

# Share of the showings that have a slot, as in TC-Bot's table.
SHARES = {
    **{"moviename": 0.97, "theater": 0.93, "date": 0.92, "starttime": 0.91, "city": 0.89},
    **{"state": 0.62, "zip": 0.33, "other": 0.32, "genre": 0.30, "distanceconstraints": 0.24},
    **{"critic_rating": 0.16, "video_format": 0.15, "theater_chain": 0.10, "mpaa_rating": 0.07},
    **{"numberofkids": 0.04, "actor": 0.02, "price": 0.02, "actress": 0.01},
}
MOVIES, DAYS, HOURS = 59, 14, 12
SHOWS = 4  # times at which a movie runs on a day in a theater, at most
ROWS_PER_THEATER, THEATERS_PER_CITY, CITIES_PER_STATE = 5, 3, 3
NUMBERS = 16  # people, at most

ANSWERED = ("theater", "starttime", "date")  # what users may ask for
FULL = 0.48  # share of goals that ask for a ticket alone
ASKED = {"theater": 0.91, "starttime": 0.78, "date": 0.58}  # of the others, who asks for what
CITY, STATE = 0.45, 0.18  # who names the city, of those who ask; who names the state, of all
UNMET = 0.02  # share of goals that no showing meets


@functools.lru_cache(maxsize=8)
def make_showings(rows: int, goals: int, seed: int) -> Showings:
    """A table and goals; equal arguments give equal ones.

    A theater lies in a city and that in a state; on a day it shows a movie at several times. Each cell
    is then kept with the chance of its slot. A goal is made from a showing: it constrains the movie, and
    either all else that users know, or less of it and asks for the rest, which the table may not have.
    A few want a movie that isn't shown.

    Args:
      rows: showings.
      goals: users' goals.
      seed: of the draws.
    """
    random = np.random.default_rng(seed)
    full = _full_rows(random, rows)
    table = tuple(
        {slot: value for slot, value in row.items() if random.random() < SHARES[slot]} or row
        for row in full
    )
    whole = {"moviename", "city", *ANSWERED}
    # A table so small that no showing of it has all that a user may tell lends its full rows.
    source = table if any(whole <= row.keys() for row in table) else full
    return Showings(table, tuple(_goal(random, source) for _ in range(goals)))


def _full_rows(random: np.random.Generator, rows: int) -> list[dict[str, str]]:
    """Showings in which no cell is missing."""
    theaters = max(1, rows // ROWS_PER_THEATER)
    made: list[dict[str, str]] = []
    while len(made) < rows:
        theater, day = int(random.integers(theaters)), int(random.integers(DAYS))
        city = theater // THEATERS_PER_CITY
        # Some movies run nearly everywhere, as in life.
        movie = int(MOVIES * random.random() ** 2)
        of_theater = {
            "theater": f"theater {theater}",
            "city": f"city {city}",
            "state": f"state {city // CITIES_PER_STATE}",
            "zip": f"{10_000 + 7 * theater}",
            "theater_chain": f"chain {theater % 7}",
            "distanceconstraints": f"near place {theater % 30}",
        }
        of_movie = {
            "moviename": f"movie {movie}",
            "genre": f"genre {movie % 9}",
            "critic_rating": f"{1 + movie % 5} stars",
            "mpaa_rating": ("g", "pg", "pg-13", "r")[movie % 4],
            "actor": f"actor {movie % 11}",
            "actress": f"actress {movie % 13}",
        }
        hours = random.choice(HOURS, size=int(random.integers(1, SHOWS + 1)), replace=False)
        for hour in hours.tolist():
            of_show = {
                "date": f"day {day}",
                "starttime": f"{11 + hour}:{15 * (theater % 4):02d}",
                "video_format": ("standard", "3d")[hour % 2],
                "other": f"remark {(movie + hour) % 20}",
                "numberofkids": f"{hour % 4}",
                "price": f"{6 + hour} dollars",
            }
            row = of_theater | of_movie | of_show
            made.append({slot: row[slot] for slot in SLOTS if slot in row})
    return made[:rows]


def _goal(random: np.random.Generator, rows: Sequence[Mapping[str, str]]) -> Goal:
    """A goal after a showing that has all that is told, though perhaps not what is asked."""
    asked: tuple[str, ...] = ()
    while not asked and random.random() >= FULL:
        asked = tuple(slot for slot in ANSWERED if random.random() < ASKED[slot])
    told = ["moviename", *(slot for slot in ANSWERED if slot not in asked)]
    if not asked or random.random() < CITY:
        told.append("city")
    row = rows[int(random.integers(len(rows)))]
    while not all(slot in row for slot in told):
        row = rows[int(random.integers(len(rows)))]
    if "state" in row and random.random() < STATE:
        told.append("state")
    constraints = {slot: row[slot] for slot in told}
    if random.random() < UNMET:
        constraints["moviename"] = "a movie that doesn't run"
    constraints["numberofpeople"] = str(int(random.integers(1, NUMBERS + 1)))
    return Goal({slot: constraints[slot] for slot in SLOTS if slot in constraints}, asked)
