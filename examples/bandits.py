"""Independent learners on `cfmimo.parallel_env`, without any library: each link keeps the mean of what it earned.

Every agent is one link of an AP. It asks with probability 1 - epsilon where asking has earned more so far than not
asking. Draws what the network reaches, episode by episode. Example: python examples/bandits.py --episodes 30
"""

from __future__ import annotations

import argparse

import matplotlib.pyplot as plt
import numpy as np

import cfmimo


def main() -> None:
    """Train, and draw the sum rate of every episode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--epsilon", type=float, default=0.1)
    parser.add_argument("--out", default="bandits.png")
    options = parser.parse_args()
    env = cfmimo.parallel_env("demo", agents="links", max_cycles=20)
    rng, rates = np.random.default_rng(0), []
    earned = {agent: np.zeros(2) for agent in env.possible_agents}  # mean reward of not asking, and of asking
    times = {agent: np.zeros(2) for agent in env.possible_agents}
    for episode in range(options.episodes):
        observations, _ = env.reset(seed=episode)
        reached = []
        while env.agents:
            actions = {}
            for agent in env.agents:
                explores = rng.random() < options.epsilon
                best = int(earned[agent].argmax()) if not explores else int(rng.integers(2))
                actions[agent] = best if observations[agent]["action_mask"][best] else 0
            observations, rewards, _, _, infos = env.step(actions)
            for agent, action in actions.items():
                times[agent][action] += 1
                earned[agent][action] += (rewards[agent] - earned[agent][action]) / times[agent][action]
            reached.append(infos[env.possible_agents[0]]["sum_rate"])
        rates.append(np.mean(reached))
        print(f"episode {episode}: {rates[-1]:.1f} bit/s/Hz")
    figure, axes = plt.subplots()
    axes.plot(rates)
    axes.set(xlabel="episode", ylabel="sum rate [bit/s/Hz]")
    figure.savefig(options.out)


if __name__ == "__main__":
    main()
