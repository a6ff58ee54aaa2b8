"""The specs of the package, found by walking it."""

import dataclasses
import importlib
import inspect
import pathlib
import pkgutil
import re
import typing
from typing import Any

import tiny_task

import ragjax
from ragjax.envs.cartpole import CartPole
from ragjax.envs.dialogue.kb_infobot_rules import EntropyRule
from ragjax.envs.dialogue.movie_booking_policies import MovieBookingBaseline
from ragjax.envs.dialogue.tables import TableFile
from ragjax.learners.episodes import EpisodesConfig
from ragjax.learners.questions import Phase, QuestionsConfig
from ragjax.models.pretrained.encoder import PretrainedEncoder
from ragjax.models.pretrained.reader import PretrainedReader
from ragjax.objectives.a2c import A2C
from ragjax.objectives.guided_ppo import GuidedPPO
from ragjax.objectives.labelled_turns import LabelledTurns


def specs_of(base: type) -> list[type[Any]]:
    """Every subclass of `base` in the package that is no base itself, by name."""
    for module in pkgutil.walk_packages(ragjax.__path__, "ragjax."):
        importlib.import_module(module.name)

    def below(kind):
        return {kind}.union(*(below(child) for child in kind.__subclasses__()))

    found = {
        kind
        for kind in below(base) - {base}
        # Other tests may define some, too.
        if kind.__module__.startswith("ragjax.")
        and not any(child.__module__.startswith("ragjax.") for child in kind.__subclasses__())
    }
    return sorted(found, key=lambda kind: kind.__name__)


def is_abstract(kind: type) -> bool:
    """Whether a class leaves a method to its subclasses; one that says why has none to leave."""
    methods = [getattr(member, "fget", member) for member in vars(kind).values()]
    functions = [method for method in methods if inspect.isfunction(method)]
    return any(
        re.search(r"raise NotImplementedError$", inspect.getsource(function), re.MULTILINE)
        for function in functions
        if not function.__name__.startswith("__")
    )


def config_specs() -> list[type[Any]]:
    """Every class whose instances can stand in a config: found by walking, not by a list."""
    for module in pkgutil.walk_packages(ragjax.__path__, "ragjax."):
        importlib.import_module(module.name)

    def below(kind):
        return {kind}.union(*(below(child) for child in kind.__subclasses__()))

    def parts(hint):
        if dataclasses.is_dataclass(hint):
            return {hint}
        return set().union(*(parts(part) for part in typing.get_args(hint)))

    found, todo = set(), {QuestionsConfig, EpisodesConfig}
    while todo:
        kind = todo.pop()
        if not kind.__dataclass_params__.eq:
            continue  # compared by identity: a spec that was prepared, which no config holds
        found.add(kind)
        hints = typing.get_type_hints(kind)
        for hint in (hints[field.name] for field in dataclasses.fields(kind)):
            todo |= {one for part in parts(hint) for one in below(part)} - found
    # Bases are no specs of their own, and other tests may define tasks.
    bases = {kind for kind in found if is_abstract(kind)}
    return sorted(
        (kind for kind in found - bases if kind.__module__.startswith("ragjax.")),
        key=lambda kind: kind.__qualname__,
    )


REQUIRED = {
    PretrainedEncoder: {"source": "owner/name"},
    PretrainedReader: {"source": "owner/name"},
    QuestionsConfig: {"task": tiny_task.TinyTask()},
    EpisodesConfig: {"env": CartPole(), "algorithm": A2C()},
    Phase: {"steps": 3},
    GuidedPPO: {"guide": MovieBookingBaseline()},
    LabelledTurns: {"guide": EntropyRule()},
    TableFile: {"path": pathlib.Path("table.tsv")},
}


def build(kind: type[Any], **fields: Any) -> Any:
    """A spec with these fields, and some value for each that has no default."""
    return kind(**(REQUIRED.get(kind, {}) | fields))
