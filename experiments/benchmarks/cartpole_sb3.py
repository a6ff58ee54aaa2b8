"""One run of Stable-Baselines3's PPO on CartPole-v1, for `cartpole_ppo.py`: settings in, figures out.

    python experiments/benchmarks/cartpole_sb3.py '{"seed": 0, "threads": 1, ...}'

Settings and figures are JSON. It is a process of its own, so that neither library sees the other's
threads or memory.
"""

import json
import sys
import time
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
from stable_baselines3 import PPO  # pyright: ignore[reportMissingImports]
from stable_baselines3.common.env_util import make_vec_env  # pyright: ignore[reportMissingImports]
from stable_baselines3.common.evaluation import (  # pyright: ignore[reportMissingImports]
    evaluate_policy,
)

EVALUATED_AT_ONCE = 20


def run(settings: dict[str, Any]) -> dict[str, Any]:
    """Trains with one seed.

    Args:
      settings: seed, threads, env_id, env_steps, episodes; num_envs, rollout_length, epochs,
        minibatches, discount, gae_lambda, clip_eps, clip_value, normalise_advantage, entropy_coef,
        value_coef, learning_rate, anneal, epsilon, max_grad_norm, hidden; as `cartpole_ppo.settings`
        gives them.

    Returns:
      `setup_seconds` of environments and model, `seconds` of training and `steps` made in them;
      `episode_seconds` (since training began) and `episode_returns` of the training episodes, in the
      order of their ends; and the `greedy` and `sampled` returns of the episodes played at the end.
    """
    torch.set_num_threads(settings["threads"])
    rate = settings["learning_rate"]
    began = time.time()
    envs = make_vec_env(settings["env_id"], settings["num_envs"], seed=settings["seed"])
    model = PPO(
        "MlpPolicy",
        envs,
        learning_rate=(lambda left: rate * left) if settings["anneal"] else rate,
        n_steps=settings["rollout_length"],
        batch_size=settings["num_envs"] * settings["rollout_length"] // settings["minibatches"],
        n_epochs=settings["epochs"],
        gamma=settings["discount"],
        gae_lambda=settings["gae_lambda"],
        clip_range=settings["clip_eps"],
        clip_range_vf=settings["clip_eps"] if settings["clip_value"] else None,
        normalize_advantage=settings["normalise_advantage"],
        ent_coef=settings["entropy_coef"],
        vf_coef=settings["value_coef"] / 2,  # its critic's loss has no factor of a half
        max_grad_norm=settings["max_grad_norm"],
        policy_kwargs={
            "net_arch": {"pi": settings["hidden"], "vf": settings["hidden"]},
            "activation_fn": torch.nn.Tanh,
            "ortho_init": True,
            "optimizer_kwargs": {"eps": settings["epsilon"]},
        },
        device="cpu",
        seed=settings["seed"],
    )
    setup = time.time() - began
    began = time.time()
    model.learn(settings["env_steps"])
    seconds = time.time() - began

    starts = envs.get_attr("t_start")
    times, returns = envs.env_method("get_episode_times"), envs.env_method("get_episode_rewards")
    ended = sorted(
        (start + after - began, float(total))
        for start, *monitored in zip(starts, times, returns, strict=True)
        for after, total in zip(*monitored, strict=True)
    )
    result = {
        "setup_seconds": setup,
        "seconds": seconds,
        "steps": model.num_timesteps,
        "episode_seconds": [after for after, _ in ended],
        "episode_returns": [total for _, total in ended],
    }
    for mode in ("greedy", "sampled"):
        fresh = make_vec_env(settings["env_id"], EVALUATED_AT_ONCE, seed=1000 + settings["seed"])
        played: Any = evaluate_policy(
            model,
            fresh,
            settings["episodes"],
            deterministic=mode == "greedy",
            return_episode_rewards=True,
        )
        result[mode] = [float(total) for total in played[0]]
    return result


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
