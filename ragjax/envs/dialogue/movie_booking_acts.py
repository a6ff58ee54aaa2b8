"""Slots, dialogue acts and the agent's actions of movie booking, in TC-Bot's order."""

import numpy as np

SLOTS = (
    *("actor", "actress", "city", "closing", "critic_rating", "date", "description"),
    *("distanceconstraints", "genre", "greeting", "implicit_value", "movie_series", "moviename"),
    *("mpaa_rating", "numberofpeople", "numberofkids", "taskcomplete", "other", "price"),
    *("seating", "starttime", "state", "theater", "theater_chain", "video_format", "zip"),
    *("result", "ticket", "mc_list"),
)
SLOT = {name: place for place, name in enumerate(SLOTS)}
TICKET, TASKCOMPLETE = SLOT["ticket"], SLOT["taskcomplete"]

ACTS = (
    *("request", "inform", "confirm_question", "confirm_answer", "greeting", "closing"),
    *("multiple_choice", "thanks", "welcome", "deny", "not_sure"),
)
ACT = {name: place for place, name in enumerate(ACTS)}
REQUEST, INFORM, CLOSING = ACT["request"], ACT["inform"], ACT["closing"]
THANKS, DENY = ACT["thanks"], ACT["deny"]

_INFORMED = (
    *("moviename", "theater", "starttime", "date", "genre", "state", "city", "zip"),
    *("critic_rating", "mpaa_rating", "distanceconstraints", "video_format", "theater_chain"),
    *("price", "actor", "description", "other", "numberofkids", "taskcomplete", "ticket"),
)
_REQUESTED = (*_INFORMED[:4], "numberofpeople", *_INFORMED[4:18])

# An action is an act, with the slot that it informs or requests; None of the others.
ACTIONS: tuple[tuple[str, str | None], ...] = (
    *((act, None) for act in ("confirm_question", "confirm_answer", "thanks", "deny")),
    *(("inform", slot) for slot in _INFORMED),
    *(("request", slot) for slot in _REQUESTED),
)
ACTION_ACT = np.array([ACT[act] for act, _ in ACTIONS], np.int32)
ACTION_SLOT = np.array([SLOT[slot] if slot else 0 for _, slot in ACTIONS], np.int32)


def described(act: str, slot: str | None) -> str:
    """An action in words: "thanks", "request(date)"."""
    return act if slot is None else f"{act}({slot})"
