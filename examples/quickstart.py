"""The loop of a trainer: a bank, an allocator, rounds of allocate and update, a crash, and the final figures.

Run it with ``python examples/quickstart.py``; it needs only the package.

The model is simulated: every prompt has a fixed success rate, and a rollout is a coin toss. With a real trainer three
things change. ``generate`` calls your model and its rewards; the success rates are unknown, and change as the
model learns (give the bank a ``forgetting`` below 1); and the loop is that of the trainer: docs/trainers.md has it for TRL,
verl and OpenRLHF. Mixed groups, those with both successes and failures, remain the figure to watch.
"""

import tempfile

import numpy as np

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator

N_PROMPTS, N_ROUNDS, BUDGET = 200, 100, 32_000
rng = np.random.default_rng(0)
true_rate = rng.beta(0.5, 0.5, size=N_PROMPTS)  # known to the simulation alone


def generate(counts: np.ndarray) -> np.ndarray:
    """Return how many of each prompt's rollouts were rewarded: your model and verifier go here."""
    return rng.binomial(counts, true_rate)


bank = BetaPosteriorBank([f"gsm8k/{i}" for i in range(N_PROMPTS)])  # what was observed of each prompt
allocator = FenchelDualAllocator(
    bank, total_budget=BUDGET, n_rounds=N_ROUNDS, unit_size=4, max_rollouts=8, catch_up=True
)

groups, mixed = np.zeros(2, dtype=int), np.zeros(2, dtype=int)  # in the first half of the run and in the second
for k in range(N_ROUNDS):
    if k == N_ROUNDS // 2:  # the machine dies here, and another one goes on
        with tempfile.TemporaryDirectory() as folder:
            allocator.save(f"{folder}/allocator.npz")
            allocator = FenchelDualAllocator.load(f"{folder}/allocator.npz")
        print(f"round {k}: saved and loaded, {allocator.remaining_budget:,} rollouts left")
    counts = allocator.allocate()  # rollouts per prompt: multiples of 4, at most 8
    successes = generate(counts)
    allocator.update(None, successes, counts)  # late, split or missing feedback is fine
    groups[2 * k // N_ROUNDS] += np.sum(counts > 0)
    mixed[2 * k // N_ROUNDS] += np.sum((successes > 0) & (successes < counts))

for half, share in zip(("first", "second"), mixed / groups, strict=True):
    print(f"{half} half: {share:.1%} of the groups have both successes and failures")

metrics = allocator.metrics()  # a flat dict of floats, ready for a logger
spent, reserved, left = (int(metrics[f"{name}_budget"]) for name in ("spent", "reserved", "remaining"))
print(f"rollouts: {spent:,} spent + {reserved:,} reserved + {left:,} left = {spent + reserved + left:,}")
print(f"the best use of them would be worth at most {metrics['certificate_regret']:.4f} per prompt more than this one")

for label, i in (("most", np.argmax(allocator.exposure)), ("fewest", np.argmin(allocator.exposure))):
    name, dealt, seen = allocator.bank.prompt_ids[i], allocator.exposure[i], allocator.bank.mean()[i]
    print(f"{label} rollouts: {name} with {dealt}; its success rate is {true_rate[i]:.2f}, estimated {seen:.2f}")
