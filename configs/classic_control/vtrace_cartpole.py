"""V-trace on CartPole-v1 with rollouts of a policy that is up to 3 updates old: 5e5 steps.

    ragjax train configs/classic_control/vtrace_cartpole.py

Expected (experiments/classic_control.py): return, greedy 500.00 ± 0.00; return, sampled 500.00 ± 0.00.
"""

from ragjax.envs.cartpole import CartPole
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.objectives.vtrace import VTrace
from ragjax.training.optimizer import Adam


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=CartPole(),
        algorithm=VTrace(num_envs=8, rollout_length=5, refresh_actor_every=4),
        optimizer=Adam.for_policies(learning_rate=7e-4),
        env_steps=500_000,
        evaluation=EpisodeEvaluation(every=625),
        log_every=125,
        checkpoint_every=2500,
    )
