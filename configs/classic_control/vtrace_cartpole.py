"""V-trace on CartPole-v1 with rollouts of a policy that is up to 3 updates old: 5e5 steps."""

from ragjax.envs.cartpole import CartPole
from ragjax.objectives.vtrace import VTrace
from ragjax.policy_config import EpisodeEvaluation, PolicyConfig
from ragjax.training.optimizer import TracedAdam


def get_config() -> PolicyConfig:
    return PolicyConfig(
        env=CartPole(),
        algorithm=VTrace(num_envs=8, rollout_length=20, refresh_actor_every=4),
        optimizer=TracedAdam(learning_rate=1e-3),
        env_steps=500_000,
        evaluation=EpisodeEvaluation(every=156),
        log_every=52,
        checkpoint_every=1000,
    )
