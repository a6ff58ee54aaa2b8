"""Labelled turns and rewards: exact gradients over every dialogue about three rows."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.envs.dialogue.kb_infobot import KBInfoBot
from ragjax.envs.dialogue.kb_infobot_rules import EntropyRule
from ragjax.envs.dialogue.kb_infobot_user import Luck
from ragjax.envs.dialogue.tables import Generated
from ragjax.errors import UserError
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.policy import ActorCritic
from ragjax.models.row_retrieval import RowRetrieval, belief_and_rows
from ragjax.objectives.labelled_turns import LabelledBatch, LabelledTurns
from ragjax.objectives.ppo import PPO
from ragjax.training.optimizer import Adam
from ragjax.training.step import make_step

ROWS, SLOTS = 3, 3
GUIDE = EntropyRule(certain=0.1, least=0.01, share=0.01)
SPEC = KBInfoBot(
    table=Generated(rows=ROWS, values=(2, 2, 2), missing=0.0, overlap=0.0, seed=0),
    missing=0.2,
    sees="rows",
    max_turns=3,
    replaced=0.0,
    corrupted=0.0,
    mentioned=0.0,
)
CHOICES = jnp.asarray(
    [(j, SLOTS, SLOTS + 1) for j in range(SLOTS)]
    + [tuple(SLOTS + k for k in order) for order in itertools.permutations(range(ROWS))]
)


@pytest.fixture(scope="module")
def world():
    """Environment, policy and parameters that are no longer those of the start."""
    env = SPEC.build()
    retriever = dataclasses.replace(belief_and_rows(4), initial_scale=3.0)
    policy = LabelledTurns(guide=GUIDE).model(RowRetrieval(3, (6,), retriever), env)
    params = jax.jit(policy.init)(jax.random.key(0))
    params["policy"] = jax.tree.map(lambda leaf: 30.0 * leaf, params["policy"])
    return env, policy, params


def begun(env):
    """Every goal of every row: its chance [n], and the dialogue that it begins; one slot is told."""
    goals = env.params.knowledge.goals
    count = np.asarray(goals.count)
    rows = np.repeat(np.arange(ROWS), count)
    knows = goals.knows
    assert (np.asarray(knows).sum(1) == 1).all()
    chances = np.diff(np.asarray(goals.rows, np.float64), prepend=0.0)[rows] / count[rows]
    assert chances.sum() == pytest.approx(1.0)
    begin = jax.vmap(lambda row, knows: SPEC.begin(env.params, row, knows, knows, no_slips(env)))
    return jnp.asarray(chances, jnp.float32), begin(jnp.asarray(rows, jnp.int32), knows)


def no_slips(env):
    """Nothing slips."""
    return Luck(*[jnp.ones(SLOTS)] * 5, jnp.zeros((SLOTS, env.params.knowledge.tokens.shape[1])))


def plain_chances(distribution):
    """[n,9] of three requests and six orders of three rows, from p(d|s) and π(act|s,d) alone."""
    prior = jnp.exp(distribution.log_prior)
    acts = jnp.exp(distribution.logits)
    acts = acts / jnp.sum(acts, axis=-1, keepdims=True)
    begins = prior * acts[..., SLOTS]
    requests = [jnp.sum(prior * acts[..., j], axis=-1) for j in range(SLOTS)]
    lists = [
        begins[:, a] * begins[:, b] / (begins[:, b] + begins[:, c])
        for a, b, c in itertools.permutations(range(ROWS))
    ]
    return jnp.stack(requests + lists, axis=-1)


class Dialogues:
    """Every dialogue, turn by turn: what is seen [n], and each choice's reward and end [n,9].

    Of each turn the first n/3 requests are those of slot 0, and so on, as dialogues go on in the next.
    """

    def __init__(self, world):
        env, self.policy, params = world
        index = jax.jit(self.policy.embed)(params)
        self.chance, (states, made) = begun(env)
        luck = no_slips(env)
        self.turns, self.labels = [], []

        @jax.jit
        def turn(states, observation):
            seen = self.policy.retrieve(params, index, None, observation)
            distribution = self.policy.apply(params, seen)[0]
            shown = jnp.stack(
                [
                    distribution.executed(jnp.broadcast_to(choice, (len(seen.ids), ROWS)))
                    for choice in CHOICES
                ],
                axis=1,
            )
            one = jax.vmap(lambda s, a: SPEC.advance(env.params, s, a, luck), (None, 0))
            after, made = jax.vmap(one)(states, shown)
            return seen, self.policy.guide(seen.observation).mode(), after, made

        reached = self.chance  # by the guide
        for _ in range(3):
            seen, act, after, made = turn(states, made.observation)
            self.turns.append((seen, states.target, made.reward, made.terminated))
            self.labels.append((seen, states.target, act, reached))
            reached = jnp.concatenate(
                [jnp.where((act == j) & ~made.terminated[:, j], reached, 0.0) for j in range(SLOTS)]
            )
            states, made = jax.tree.map(
                lambda leaf: jnp.concatenate([leaf[:, j] for j in range(SLOTS)]), (after, made)
            )

    def returns(self, params):
        """[n,9] of each turn: the chances of the choices, and what follows them."""
        found, value = [], None
        for seen, _, reward, terminated in reversed(self.turns):
            chances = plain_chances(self.policy.apply(params, seen)[0])
            returns = reward
            if value is not None:
                later = jnp.stack(jnp.split(value, SLOTS), axis=-1)
                asked = returns[:, :SLOTS] + jnp.where(terminated[:, :SLOTS], 0.0, later)
                returns = jnp.concatenate([asked, returns[:, SLOTS:]], axis=-1)
            value = jnp.sum(chances * returns, axis=-1)
            found.append((chances, returns))
        return found[::-1]

    def expected_return(self, params):
        """J, with gradient."""
        chances, returns = self.returns(params)[0]
        return jnp.sum(self.chance * jnp.sum(chances * returns, axis=-1))

    def likelihood(self, params):
        """E[Σ_t log π(label)] under the guide, with gradient."""
        total = 0.0
        for seen, target, act, reached in self.labels:
            distribution = self.policy.apply(params, seen)[0]
            prior = jnp.exp(distribution.log_prior)
            acts = jax.nn.softmax(distribution.logits, axis=-1)
            place = jnp.argmax(seen.ids == target[:, None], axis=-1)
            each = jnp.arange(len(place))
            named = prior[each, place] * acts[each, place, SLOTS]
            asked = jnp.sum(prior * acts[each, :, jnp.minimum(act, SLOTS - 1)], axis=-1)
            total += jnp.sum(reached * jnp.log(jnp.where(act < SLOTS, asked, named)))
        return total

    def steps(self, params):
        """What a loss is given: every choice of every turn by its chance, and the guide's turns."""
        rows, reached = [], self.chance
        for turn, (chances, returns) in zip(self.turns, self.returns(params), strict=True):
            weight = reached[:, None] * chances
            for place, choice in enumerate(CHOICES):
                rows.append((turn[0], choice, returns[:, place], weight[:, place], 0.0, turn[1]))
            reached = jnp.concatenate(
                [jnp.where(turn[3][:, j], 0.0, weight[:, j]) for j in range(SLOTS)]
            )
        for seen, target, act, chance in self.labels:
            rows.append((seen, CHOICES[act], 0.0 * chance, chance, 1.0, target))
        return rows


def stacked(rows, policy, params):
    """A batch of (seen, action, advantage, weight, labelled, row), by the policy that acted."""
    parts = []
    for seen, action, advantage, weight, labelled, row in rows:
        said = policy.apply(params, seen)[0].log_probs
        count = len(row)
        parts.append(
            LabelledBatch(
                observation=seen,
                action=jnp.broadcast_to(action, (count, ROWS)),
                log_probs=said,
                value=jnp.zeros(count),
                advantage=advantage,
                value_target=jnp.zeros(count),
                weight=weight,
                labelled=jnp.full(count, labelled),
                row=row,
            )
        )
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


@pytest.fixture(scope="module")
def dialogues(world):
    return Dialogues(world)


@pytest.fixture(scope="module")
def batch(world, dialogues):
    """Every turn of every dialogue, and the guide's."""
    _, policy, params = world
    return jax.jit(lambda params: stacked(dialogues.steps(params), policy, params))(params)


@pytest.fixture(scope="module")
def exact(world, dialogues):
    """The gradients of the expected return and of the likelihood of labels."""

    def gradients(params):
        return jax.grad(dialogues.expected_return)(params), jax.grad(dialogues.likelihood)(params)

    return jax.jit(gradients)(world[2])


@pytest.mark.parametrize(("rewarded", "label_coef"), [(1.0, 0.0), (0.0, 1.0), (1.2, 0.7)])
def test_gradients_equal_those_over_every_dialogue(world, batch, exact, rewarded, label_coef):
    """Of the expected return, of the likelihood of labels, and of both: -∇(J + α L)."""
    _, policy, params = world
    exact = jax.tree.map(lambda j, likely: rewarded * j + label_coef * likely, *exact)
    algorithm = LabelledTurns(
        guide=GUIDE,
        normalise_advantage=False,
        value_coef=0.0,
        label_coef=label_coef,
        reward_coef=rewarded,
    )
    hyper = {name: jnp.asarray(value) for name, value in algorithm.hyper().items()}

    def summed(params):
        return algorithm.loss(policy, params, jax.random.key(0), batch, hyper).sum

    ours = jax.jit(jax.grad(summed))(params)
    for group in ("retriever", "policy"):
        leaves = jax.tree.leaves(exact[group])
        assert max(float(jnp.abs(leaf).max()) for leaf in leaves) > 1e-3, group
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, -b, atol=1e-5), ours[group], exact[group]
        )


def test_dialogues_of_one_to_three_turns_are_enumerated(world, dialogues):
    """The chances of all ends add up to 1, and users are asked one, two or three times."""
    reached, ends = dialogues.chance, []
    followed = jax.jit(dialogues.returns)(world[2])
    for turn, (chances, _) in zip(dialogues.turns, followed, strict=True):
        weight = reached[:, None] * chances
        ends.append(float(jnp.sum(jnp.where(turn[3], weight, 0.0))))
        reached = jnp.concatenate(
            [jnp.where(turn[3][:, j], 0.0, weight[:, j]) for j in range(SLOTS)]
        )
    assert sum(ends) == pytest.approx(1.0, abs=1e-5)
    assert min(ends) > 0.02
    acts = [np.asarray(act)[np.asarray(reach) > 0] for _, _, act, reach in dialogues.labels]
    assert any((act < SLOTS).any() for act in acts)
    assert any((act == SLOTS).any() for act in acts)


def learner_of(share, **changes):
    algorithm = LabelledTurns(
        guide=EntropyRule(),
        share=share,
        num_envs=8,
        rollout_length=8,
        epochs=2,
        minibatches=2,
        **changes,
    )
    return EpisodesConfig(
        env=KBInfoBot(table=Generated(rows=40, values=(6, 5, 4), seed=1), sees="rows"),
        algorithm=algorithm,
        policy=RowRetrieval(k=6, hidden=(8,), retriever=belief_and_rows(8)),
        optimizer=Adam.for_policies(learning_rate=1e-2, schedule="constant"),
        env_steps=64 * 40,
        evaluation=EpisodeEvaluation(episodes=8, every=0),
    ).create()


def collected(learner):
    state = jax.jit(learner.init)(jax.random.PRNGKey(0), learner.hyper, learner.data)
    stage = learner.stages[0]
    return state, *jax.jit(
        lambda state: learner.collect(
            state, None, stage=stage, hyper=learner.hyper, data=learner.data
        )
    )(state)


def test_turns_are_labelled_in_a_share_of_the_environments():
    learner = learner_of(0.5)
    _, _, batch, _ = collected(learner)
    labelled = np.asarray(batch.labelled).reshape(8, 8)
    assert (labelled == (np.arange(8) < 4)).all()
    policy = learner.policy(learner.data)
    wanted = np.asarray(policy.guide(batch.observation.observation).mode())
    acts = np.minimum(np.asarray(batch.action)[:, 0], 3).reshape(8, 8)
    np.testing.assert_array_equal(acts[:, :4], wanted.reshape(8, 8)[:, :4])
    assert np.any(acts[:, 4:] != wanted.reshape(8, 8)[:, 4:])
    found = np.asarray(batch.observation.ids == batch.row[:, None]).any(-1).reshape(8, 8)
    assert found[:, :4].all()
    assert not found[:, 4:].all()


def test_the_row_is_that_of_the_dialogue_that_is_acted_in():
    """Where a list ended the dialogue, too: the reward says at which place it named the row."""
    learner = learner_of(0.0)
    _, _, batch, _ = collected(learner)
    policy = learner.policy(learner.data)
    ids = policy.apply(policy.init(jax.random.key(0)), batch.observation)[0].executed(batch.action)
    listed = np.asarray(batch.action)[:, 0] >= 3
    named = (np.asarray(ids) - 3 == np.asarray(batch.row)[:, None]).any(-1)
    rewards = np.asarray(batch.value_target)
    assert listed.sum() > 5
    assert np.any(named[listed])
    assert rewards[listed & named].min() > rewards[listed & ~named].max()


def test_no_share_is_ppo():
    learner = learner_of(0.0)
    state, _, batch, _ = collected(learner)
    policy, key, hyper = learner.policy(learner.data), jax.random.key(0), learner.hyper
    algorithm = learner.config.algorithm
    fields = {item.name for item in dataclasses.fields(PPO)}
    plain = PPO(**{name: getattr(algorithm, name) for name in fields})
    params = jax.tree.map(lambda leaf: 1.5 * leaf, state.params)
    ours = algorithm.loss(policy, params, key, batch, hyper)
    theirs = plain.loss(policy, params, key, batch, hyper)
    assert float(ours.sum) == float(theirs.sum)
    assert float(ours.denom) == float(theirs.denom)


def test_labels_alone_are_learned():
    learner = learner_of(1.0)
    state = jax.jit(learner.init)(jax.random.PRNGKey(0), learner.hyper, learner.data)
    step, losses = jax.jit(make_step(learner, learner.stages[0])), []
    for _ in range(30):
        state, metrics = step(state, None, learner.hyper, learner.data)
        losses.append(float(metrics["label_loss"].value))
        assert not bool(metrics["kl"].known)
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share": 1.5}, r"algorithm\.share is 1\.5; it is a share"),
        ({"label_coef": -1.0}, r"algorithm\.label_coef is -1\.0"),
        ({"reward_coef": -0.5}, r"algorithm\.reward_coef is -0\.5"),
        ({"guide": ActorCritic()}, r"algorithm\.guide is a ActorCritic, which has to learn"),
    ],
)
def test_fields_are_checked(changes, message):
    with pytest.raises(UserError, match=message):
        LabelledTurns(**{"guide": GUIDE, **changes})


def test_other_policies_are_refused():
    learner = learner_of(0.5)
    config = dataclasses.replace(
        learner.config,
        env=dataclasses.replace(learner.config.env, sees="soft"),
        policy=ActorCritic(),
    )
    with pytest.raises(UserError, match="choose a RowRetrieval"):
        collected(config.create())
