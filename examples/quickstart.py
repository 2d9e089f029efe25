"""The loop of a trainer: one allocator, steps of allocate and observe, a crash, and the final figures.

Run it with ``python examples/quickstart.py``; it needs only the package.

The model is simulated: every prompt has a fixed success rate, and a rollout is a coin toss. With a real trainer three
things change. ``generate`` calls your model and its rewards; the success rates are unknown, and change as the model learns,
which the allocator expects; and the loop is that of the trainer: docs/trainers.md has it for TRL, verl and OpenRLHF.
"""

import tempfile

import numpy as np

from cero_alloc import ResolvingAllocator, training_allocator

N_PROMPTS, N_ROUNDS, BATCH = 500, 100, 128
rng = np.random.default_rng(0)
ids = [f"gsm8k/{i}" for i in range(N_PROMPTS)]
true_rate = dict(zip(ids, rng.beta(0.5, 0.5, size=N_PROMPTS), strict=True))  # known to the simulation alone


def generate(prompts: list) -> list[float]:
    """Return the reward of one answer to each prompt: your model and verifier go here."""
    return [float(rng.random() < true_rate[prompt]) for prompt in prompts]


allocator = training_allocator(ids, total_budget=N_ROUNDS * BATCH, n_rounds=N_ROUNDS)

useful = np.zeros(2)  # rollouts of the prompts that are solved sometimes, by half of the run
for k in range(N_ROUNDS):
    if k == N_ROUNDS // 2:  # the machine dies here, and another one goes on
        with tempfile.TemporaryDirectory() as folder:
            allocator.save(f"{folder}/allocator.npz")
            allocator = ResolvingAllocator.load(f"{folder}/allocator.npz")
        print(f"step {k}: saved and loaded, {allocator.remaining_budget:,} rollouts left")
    counts = allocator.allocate(budget=BATCH, exact=True)  # rollouts for each prompt, here 0 or 1
    prompts = allocator.bank.prompts_of(counts)  # one entry per rollout
    rewards = generate(prompts)
    advantages = allocator.observe(prompts, rewards)  # one per rollout, for the policy gradient
    useful[2 * k // N_ROUNDS] += sum(0.1 < true_rate[prompt] < 0.9 for prompt in prompts)

share = np.mean([0.1 < rate < 0.9 for rate in true_rate.values()])
print(f"prompts that the model solves in 10 to 90% of its answers: {share:.1%} of the pool")
for half, part in zip(("first", "second"), useful / (N_ROUNDS // 2 * BATCH), strict=True):
    print(f"{half} half: {part:.1%} of the rollouts went to them")

spent, reserved, left = (int(allocator.metrics()[f"{name}_budget"]) for name in ("spent", "reserved", "remaining"))
print(f"rollouts: {spent:,} spent + {reserved:,} reserved + {left:,} left = {spent + reserved + left:,}")

for label, i in (("most", np.argmax(allocator.exposure)), ("fewest", np.argmin(allocator.exposure))):
    name, dealt, seen = ids[i], allocator.exposure[i], allocator.bank.mean()[i]
    print(f"{label} rollouts: {name} with {dealt}; its success rate is {true_rate[name]:.2f}, estimated {seen:.2f}")
