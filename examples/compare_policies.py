"""Several allocators on one pool at equal budgets, over several seeds: the share of the optimum that each reaches.

Run it with ``python examples/compare_policies.py``; ``--plot FILE`` draws the table (needs ``cero-alloc[plot]``).

The pool is drawn once from Beta(a, b); a seed draws the rewards and the ties, and policies are compared seed by seed.
*Optimum* is what a clairvoyant would make of the same rollouts. The objective is this package's surrogate, the utility of
exposure at success rates that do not move: a larger share is not better training, and docs/learning.md says how the
two differ. benchmarks/peers.py compares all published rules, on more pools.
"""

import argparse
from functools import partial

import numpy as np
from scipy.stats import t

from cero_alloc import FenchelDualAllocator, Horizon, ResolvingAllocator
from cero_alloc.baselines import VIP, Greedy, KnapsackRL, SpeedRL, Uniform
from cero_alloc.simulation import simulate, static_pool

GROUP, MOST = 8, 32  # rollouts of rules with one group size, and the most that the others deal to a prompt in a round
POLICIES = {
    "Resolving": partial(ResolvingAllocator, min_rollouts=GROUP, max_rollouts=MOST),
    "FenchelDual": partial(FenchelDualAllocator, max_rollouts=GROUP, catch_up=True),
    "greedy": partial(Greedy, max_rollouts=GROUP),
    "SPEED-RL": partial(SpeedRL, max_rollouts=MOST),
    "VIP": partial(VIP, max_rollouts=MOST),
    "Knapsack RL": partial(KnapsackRL, max_rollouts=MOST),
    "uniform": partial(Uniform, max_rollouts=MOST, rollouts_per_visit=GROUP),
}


def compare(n_prompts, n_rounds, per_prompt, beta, n_seeds):
    """Play all policies; return figures per policy and seed, shape (n_seeds, 4): share, groups, regret, rollouts."""
    pool, budget = static_pool(n_prompts, *beta, seed=0), per_prompt * n_prompts
    run = {"total_budget": budget, "n_rounds": n_rounds}
    horizon = Horizon(n_prompts=n_prompts, max_rollouts=MOST, round_capacity=MOST * n_prompts, **run)
    figures = {name: [] for name in POLICIES}
    for seed in range(n_seeds):
        for name, policy in POLICIES.items():
            result = simulate(policy(pool.bank(), seed=seed, **run), pool, n_rounds, seed=seed, horizon=horizon)
            dealt = result.group_rollouts.sum()
            figures[name].append(
                (100 * result.achieved / result.optimum, 1000 * result.mixed.sum() / dealt, result.regret, dealt)
            )
    return {name: np.array(rows) for name, rows in figures.items()}


def verdict(best, other):
    """Return what the other policy is ahead, paired by seeds, with its 95% interval, in words."""
    gap = other - best
    half = t.ppf(0.975, gap.size - 1) * gap.std(ddof=1) / np.sqrt(gap.size)
    return f"{gap.mean():+.2f} ± {half:.2f}" + (" ~" if abs(gap.mean()) <= half else "")


def main():
    """Read the command line, play, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=256, help="prompts of the pool (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=64, help="rounds of the run (default %(default)s)")
    parser.add_argument("--per-prompt", type=int, default=64, help="rollouts per prompt (default %(default)s)")
    parser.add_argument("--beta", type=float, nargs=2, default=(0.5, 0.6), metavar=("A", "B"), help="of the rates")
    parser.add_argument("--seeds", type=int, default=5, help="at least 2, for an interval (default %(default)s)")
    parser.add_argument("--plot", metavar="FILE", help="also draw the shares, with 95%% intervals")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("--seeds must be at least 2, for an interval")

    figures = compare(options.prompts, options.rounds, options.per_prompt, options.beta, options.seeds)
    best, *_ = ranked = sorted(figures, key=lambda name: -figures[name][:, 0].mean())
    a, b = options.beta
    budget = options.prompts * options.per_prompt
    print(f"{options.prompts} prompts from Beta({a:g}, {b:g}), {budget:,} rollouts in {options.rounds} rounds")
    print(f"mean ± standard deviation over {options.seeds} seeds\n")
    print(f"{'policy':<13}{'optimum, %':>12}{'mixed':>14}{'regret':>13}{'rollouts':>11}   against {best}")
    for name in ranked:
        share, groups, regret, dealt = figures[name].T
        cells = (f"{x.mean():.1f} ± {x.std(ddof=1):.1f}" for x in (share, groups, 1000 * regret))
        row = "{:<13}{:>12}{:>14}{:>13}".format(name, *cells) + f"{dealt.mean():>11,.0f}"
        print(row if name == best else f"{row}   {verdict(figures[best][:, 0], share)}")
    print("\nmixed: mixed groups per 1,000 rollouts; regret: utility per prompt, x 1,000")
    print("against: share of the optimum, paired by seeds, with a 95% interval; ~ within noise")
    print("The share is one of the surrogate objective, and does not imply better training.")

    if options.plot:
        from matplotlib import pyplot

        from cero_alloc.plotting import plot_comparison

        figure, ax = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
        label = f"Beta({a:g}, {b:g})"
        plot_comparison({n: {label: f[:, 0]} for n, f in figures.items()}, ax, label="% of the clairvoyant optimum")
        figure.savefig(options.plot, dpi=150)


if __name__ == "__main__":
    main()
