"""A rule of your own against every published one, in fewer than 30 lines of code.

Run it with ``python examples/custom_policy.py``. A policy is any object with ``allocate``, which returns rollouts per
prompt, and ``update``, which takes their rewards; ``simulate`` plays it beside the package's own. The rule here draws a
success rate p per prompt from what was seen of it (Thompson sampling), scores it by p (1 - p) / (1 + rollouts / 32), so
that a prompt matters less the more it has had, and deals groups of eight to the largest scores.

One pool, three draws of the rewards, the same budget for all; mean and standard deviation. Rules with one group size deal
eight; Greedy, FixedPacing and FenchelDualAllocator deal their cap of 32, which is not their best. The share is one of this
package's surrogate objective, and measures no training (docs/learning.md). docs/peers.md has ten pools and fairer sizes.
"""

import numpy as np

from cero_alloc import FenchelDualAllocator, Horizon, ResolvingAllocator
from cero_alloc.baselines import CONTROLS, PEERS
from cero_alloc.simulation import simulate, static_pool


class ThompsonVariance:
    """Thompson sampling of the reward variance, discounted by what a prompt has had."""

    def __init__(self, bank, *, total_budget, n_rounds, max_rollouts, seed):
        self.wins, self.losses = np.ones((2, len(bank)))  # Beta(1, 1)
        self.groups, self.rng = total_budget // n_rounds // 8, np.random.default_rng(seed)

    def allocate(self):
        """Return this round's rollouts per prompt."""
        p = self.rng.beta(self.wins, self.losses)
        score = p * (1 - p) / (1 + (self.wins + self.losses - 2) / 32)
        counts = np.zeros(p.size, dtype=int)
        counts[np.argsort(-score)[: self.groups]] = 8
        return counts

    def update(self, prompts, successes, rollouts):
        """Take the rewards of some prompts."""
        self.wins[prompts] += successes
        self.losses[prompts] += rollouts - successes


pool, run = static_pool(256, 0.5, 0.6, seed=0), {"total_budget": 16_384, "n_rounds": 64, "max_rollouts": 32}
horizon, table = Horizon(n_prompts=256, round_capacity=16_384, **run), []
for policy in (ThompsonVariance, ResolvingAllocator, FenchelDualAllocator, *PEERS, *CONTROLS):
    runs = [simulate(policy(pool.bank(), seed=s, **run), pool, 64, seed=s, horizon=horizon) for s in range(3)]
    share = [100 * r.achieved / r.optimum for r in runs]
    table.append((np.mean(share), np.std(share, ddof=1), np.mean([r.exposure.sum() for r in runs]), policy.__name__))
print(f"{'policy':<22}{'% of the optimum':>18}{'rollouts':>11}")
for share, spread, dealt, name in sorted(table, reverse=True):
    print(f"{name:<22}{share:>12.1f} ± {spread:.1f}{dealt:>11,.0f}")
