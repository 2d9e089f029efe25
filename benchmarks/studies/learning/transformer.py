"""GRPO on small transformers: worlds, warm starts and the training loop, many runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from studies.learning.dealing import Dealing, Run, dead
from studies.learning.gpt import Replicas, log_likelihood, sample
from studies.learning.pauses import Pauses, load_state, save_state, write_whole
from studies.learning.tasks import TASKS, family

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
State = dict[str, Tensor]  # parameters of one model

STARTS = {"unsolved": 0.05, "middle": 0.4, "nearly solved": 0.85}  # mean success of the pool where training starts
WARM_CHECK = 10  # steps between checks of it
RAMP = 16  # rounds over which the learning rate rises to its value


@dataclass(frozen=True, slots=True)
class Size:
    """The sizes of the models and the runs of a study."""

    width: int
    layers: int
    heads: int
    n_prompts: int = 384  # held out, and in the pool, whose tasks may multiply it
    n_rounds: int = 144
    rollouts: int = 128  # per round
    measured: int = 4  # rounds between measurements of held-out success
    warm_rate: float = 1e-3
    warm_steps: int = 3000
    warm_batch: int = 128
    warm_corpus: int = 20_000
    levels: tuple[tuple[str, float], ...] = tuple(STARTS.items())
    banded: bool = False  # whether held-out success is also measured by difficulty


SIZES = {
    "small": Size(48, 2, 4),
    "large": Size(384, 6, 6, warm_rate=3e-4),
    "single": Size(
        48, 2, 4, n_prompts=2048, n_rounds=384, measured=16,
        levels=(("hard", 0.05), ("quarter", 0.25), ("nearly solved", 0.85)),
    ),
    "single quick": Size(
        16, 1, 2, n_prompts=64, n_rounds=6, rollouts=32, measured=2, warm_steps=20, warm_corpus=400,
        levels=(("hard", 0.05), ("quarter", 0.25), ("nearly solved", 0.85)),
    ),
    "single large": Size(
        384, 6, 6, n_prompts=4096, n_rounds=384, measured=16, warm_rate=3e-4,
        levels=(("hard", 0.05), ("quarter", 0.25)), banded=True,
    ),
    "first look": Size(
        80, 2, 4, n_prompts=1024, n_rounds=200, rollouts=512,
        levels=(("unsolved", 0.205), ("middle", 0.489), ("nearly solved", 0.851)),
    ),
    "quick": Size(16, 1, 2, n_prompts=32, n_rounds=6, rollouts=64, measured=2, warm_steps=20, warm_corpus=400),
    "single large quick": Size(
        16, 1, 2, n_prompts=64, n_rounds=2, rollouts=32, measured=1, warm_steps=20, warm_corpus=400,
        levels=(("hard", 0.05), ("quarter", 0.25)), banded=True,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """The prompts of a task and seed: for training, held out, and for the warm start; all distinct."""

    prompts: IntArray  # (prompts of the pool, width)
    answers: IntArray  # (prompts of the pool, length)
    held_prompts: IntArray
    held_answers: IntArray
    warm_prompts: IntArray
    warm_answers: IntArray


@lru_cache(maxsize=64)
def world(task: str, n_prompts: int, corpus: int, seed: int) -> World:
    """Draw the prompts of a task and seed."""
    asked, about = TASKS[task], [seed, *map(ord, family(task))]
    rng, n = np.random.default_rng(about), 2 * n_prompts + corpus
    prompts, answers = asked.draw(n, rng)
    parts = np.split(rng.permutation(n), [n_prompts, 2 * n_prompts])
    arrays = [array[rows] for rows in parts for array in (prompts, answers)]
    if asked.pool > 1:  # drawn on from the same questions: a family shares held-out prompts and warm starts
        further = asked.draw(n + (asked.pool - 1) * n_prompts, np.random.default_rng(about))
        arrays[:2] = [np.concatenate((own, more[n:])) for own, more in zip(arrays[:2], further, strict=True)]
    return World(*arrays)


def warm_starts(task: str, size: Size, seeds: Sequence[int], device: str) -> list[dict[str, State]]:
    """Train one model per seed on right answers, and keep its parameters at each start.

    A start is the first look at which the pool's mean success is at or above its level, or the last where none is.
    """
    worlds = [world(task, size.n_prompts, size.warm_corpus, seed) for seed in seeds]
    model = models(task, size, seeds, device)
    optimiser = Adam(model, [size.warm_rate] * len(seeds), memory=0.999, ramp=1)
    draws = [np.random.default_rng([seed, 5]) for seed in seeds]
    group = torch.arange(size.warm_batch, device=device).expand(len(seeds), -1)
    found: list[dict[str, State]] = [{} for _ in seeds]
    for step in range(size.warm_steps + 1):
        if step % WARM_CHECK == 0:
            rates = success(model, [w.prompts for w in worlds], [w.answers for w in worlds]).mean(1)
            for i, (kept, rate) in enumerate(zip(found, rates, strict=True)):
                for start, level in size.levels:
                    if start not in kept and (rate >= level or step == size.warm_steps):
                        kept[start] = model.state(i)
            if all(len(kept) == len(size.levels) for kept in found):
                break
        rows = [rng.integers(0, len(w.warm_prompts), size.warm_batch) for rng, w in zip(draws, worlds, strict=True)]
        prompts = _stack([w.warm_prompts[r] for w, r in zip(worlds, rows, strict=True)], device)
        answers = _stack([w.warm_answers[r] for w, r in zip(worlds, rows, strict=True)], device)
        optimiser.ascend(log_likelihood(model, prompts, group, answers).mean(1).sum())
    return found


@torch.no_grad()
def success(model: Replicas, prompts: Sequence[IntArray], answers: Sequence[IntArray]) -> FloatArray:
    """Return exact success probabilities, (replicas, prompts): the product of the right answer's token probabilities."""
    asked = _stack(prompts, model.device)
    group = torch.arange(asked.shape[1], device=model.device).expand(asked.shape[0], -1)
    found = log_likelihood(model, asked, group, _stack(answers, model.device)).exp()
    return found.double().cpu().numpy()


class Adam:
    """Adam with a learning rate per replica; ``torch.optim`` has one for all."""

    def __init__(self, model: Replicas, rates: Sequence[float], memory: float = 0.99, ramp: int = RAMP) -> None:
        self._model, self._step, self._memory, self._ramp = model, 0, memory, ramp
        self._rates = torch.tensor(rates, device=model.device)
        self._first = [torch.zeros_like(p) for p in model.parameters.values()]
        self._second = [torch.zeros_like(p) for p in model.parameters.values()]

    def ascend(self, objective: Tensor) -> None:
        """Step up the gradient of a sum over the replicas."""
        self._move(torch.autograd.grad(-objective, list(self._model.parameters.values())))

    @torch.no_grad()
    def _move(self, gradients: Sequence[Tensor]) -> None:
        self._step += 1
        t, memory = self._step, self._memory
        rates = min(1.0, t / self._ramp) / (1.0 - 0.9**t) * self._rates
        for p, g, m, v in zip(self._model.parameters.values(), gradients, self._first, self._second, strict=True):
            m.lerp_(g, 0.1)
            v.mul_(memory).addcmul_(g, g, value=1.0 - memory)
            p.sub_(rates.view(-1, *(1,) * (p.dim() - 1)) * m / ((v / (1.0 - memory**t)).sqrt_() + 1e-8))

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the moments, on the CPU, and the number of steps."""
        first, second = ([m.to("cpu", copy=True) for m in moments] for moments in (self._first, self._second))
        return {"step": self._step, "first": first, "second": second}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._step = state["step"]
        for name, moments in (("first", self._first), ("second", self._second)):
            for m, saved in zip(moments, state[name], strict=True):
                m.copy_(saved)


@dataclass(slots=True, eq=False)
class Batch:
    """The rollouts of one round of several runs, padded to the longest."""

    prompts: Tensor  # (replicas, prompts, width)
    group: Tensor  # (replicas, rollouts): row of ``prompts``
    answers: Tensor  # (replicas, rollouts, length)
    weights: Tensor  # (replicas, rollouts): of each log-likelihood in the objective
    valid: Bools  # (replicas, rollouts): False for padding


@dataclass(slots=True, eq=False)
class Curve:
    """Held-out success of one run over the rollouts that it spent.

    Attributes
    ----------
    rollouts, held_out : list
        Spent so far, and mean success, at each measurement.
    thirds : dict of str to ndarray of int64
        Held-out prompts by their success at the start; empty where no bands are measured.
    bands : dict of str to list of float
        Mean success of each third.
    dead : float
        Share of groups of 8 that are expected to be all alike at the start, in the pool.
    """

    rollouts: list[int] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)
    thirds: dict[str, IntArray] = field(default_factory=dict)
    bands: dict[str, list[float]] = field(default_factory=dict)
    dead: float = 0.0

    def split(self, rates: FloatArray, pool: FloatArray) -> None:
        """Take bands and dead groups from success at the start, held out and in the pool; shapes (n_prompts,)."""
        parts = np.array_split(np.argsort(rates, kind="stable"), 3)
        self.thirds = dict(zip(("hardest third", "middle third", "easiest third"), parts, strict=True))
        self.bands = {name: [] for name in self.thirds}
        self.dead = round(dead(pool), 4)

    def add(self, spent: int, mean: float, rates: FloatArray) -> None:
        """Take a measurement: rollouts, mean success, and success of every held-out prompt."""
        self.rollouts.append(spent)
        self.held_out.append(round(mean, 6))
        for name, rows in self.thirds.items():
            self.bands[name].append(round(float(rates[rows].mean()), 6))

    def record(self) -> dict[str, Any]:
        """Return what the record says of it."""
        extra = {"bands": self.bands, "dead": self.dead} if self.bands else {}
        return {"rollouts": self.rollouts, "held_out": self.held_out, **extra}


def train(
    runs: Sequence[Run],
    size: Size,
    starts: Sequence[State],
    device: str,
    schedules: Sequence[Any] | None = None,
    pauses: Pauses | None = None,
    file: Path | None = None,
) -> list[dict[str, Any]]:
    """Train one model per run, all of one task; return a record with the counts of each, under "counts".

    With ``file`` the runs go on from what was saved there, bit for bit. ``pauses`` says when they are saved, and when
    they stop: the list is then empty.
    """
    task = runs[0].cell[0]
    worlds = [world(task, size.n_prompts, size.warm_corpus, run.seed) for run in runs]
    saved = None if file is None else load_state(file, runs, size)
    model = models(task, size, [0], device)
    model.load(list(starts) if saved is None else saved["models"])
    optimiser = Adam(model, [run.learning_rate for run in runs])
    shape = len(worlds[0].prompts), size.n_rounds, size.rollouts
    dealers = [Dealing(run, *shape, None if schedules is None else schedules[i]) for i, run in enumerate(runs)]
    curves = [Curve() for _ in runs]
    pools = [w.prompts for w in worlds], [w.answers for w in worlds]
    held = [w.held_prompts for w in worlds], [w.held_answers for w in worlds]
    first = 0

    def measure() -> None:
        found = success(model, *held)
        if size.banded and not curves[0].thirds:
            for curve, rates, pool in zip(curves, found, success(model, *pools), strict=True):
                curve.split(rates, pool)
        for curve, dealer, mean, rates in zip(curves, dealers, found.mean(1), found, strict=True):
            curve.add(dealer.spent, float(mean), rates)

    def save(k: int) -> None:
        if file is not None:
            save_state(file, runs, size, {
                "round": k, "models": [model.state(i) for i in range(len(runs))], "optimiser": optimiser.state_dict(),
                "dealers": [dealer.state_dict() for dealer in dealers], "curves": curves,
            })  # fmt: skip

    if saved is None:
        measure()
    else:
        first, curves = saved["round"], saved["curves"]
        optimiser.load_state_dict(saved["optimiser"])
        for dealer, state in zip(dealers, saved["dealers"], strict=True):
            dealer.load_state_dict(state)
    told = any(dealer.clairvoyant for dealer in dealers)
    for k in range(first, size.n_rounds):
        if pauses is not None and pauses.check(partial(save, k)):
            return []
        if told and k % size.measured == 0:
            for dealer, rates in zip(dealers, success(model, *pools), strict=True):
                dealer.tell(rates)
        batch = play(model, dealers, worlds, k)
        optimiser.ascend((log_likelihood(model, batch.prompts, batch.group, batch.answers) * batch.weights).sum())
        if (k + 1) % size.measured == 0 or k + 1 == size.n_rounds:
            measure()
    trained = success(model, *pools).mean(1)
    if file is not None:
        file.unlink(missing_ok=True)
    return [
        {**curve.record(), "trained": round(float(rate), 6), **dealer.figures(), "counts": dealer.counts}
        for curve, dealer, rate in zip(curves, dealers, trained, strict=True)
    ]


def play(model: Replicas, dealers: Sequence[Dealing], worlds: Sequence[World], k: int) -> Batch:
    """Play all waves of round ``k`` and return its rollouts with their weights."""
    waves = [dealer.open(k) for dealer in dealers]
    length = worlds[0].answers.shape[1]
    draws = [np.random.default_rng([dealer.seed, 2, k]) for dealer in dealers]
    asked_of: list[Tensor] = []
    group_of: list[Tensor] = []
    answers_of: list[Tensor] = []
    masks: list[Bools] = []
    rows_of: list[list[IntArray]] = [[] for _ in dealers]
    right_of: list[list[Bools]] = [[] for _ in dealers]
    offset = 0
    while not masks or any(rows.size for rows, _ in waves):
        # In a round without rollouts, which Algorithm 1 may have, a row of padding still takes the step, as beside other runs.
        size = len(dealers), max(1, *(int(n.sum()) for _, n in waves))
        shape = len(dealers), max(1, *(rows.size for rows, _ in waves)), worlds[0].prompts.shape[1]
        asked = np.zeros(shape, dtype=np.int64)
        group, valid = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=bool)
        uniforms = np.zeros((*size, length), dtype=np.float32)
        for i, ((rows, n), w) in enumerate(zip(waves, worlds, strict=True)):
            total = int(n.sum())
            asked[i, : rows.size] = w.prompts[rows]
            group[i, :total] = np.repeat(np.arange(rows.size), n)
            uniforms[i, :total] = draws[i].random((total, length), dtype=np.float32)
            valid[i, :total] = True
        moved = [torch.from_numpy(array).to(model.device) for array in (asked, group, uniforms)]
        answers = sample(model, *moved)
        asked_of.append(moved[0])
        group_of.append(moved[1] + offset)
        answers_of.append(answers)
        masks.append(valid)
        offset += asked.shape[1]
        told, following = answers.cpu().numpy(), []
        for i, ((rows, n), w) in enumerate(zip(waves, worlds, strict=True)):
            each = np.repeat(rows, n)
            right = (told[i, : each.size] == w.answers[each]).all(axis=1)
            rows_of[i].append(each)
            right_of[i].append(right)
            following.append(dealers[i].close(rows, n, right))
        waves = following
    mask = np.concatenate(masks, axis=1)
    weights = np.zeros(mask.shape, dtype=np.float32)
    for i, dealer in enumerate(dealers):
        weights[i, mask[i]] = dealer.weights(np.concatenate(rows_of[i]), np.concatenate(right_of[i]))
    return Batch(
        torch.cat(asked_of, dim=1),
        torch.cat(group_of, dim=1),
        torch.cat(answers_of, dim=1),
        torch.from_numpy(weights).to(model.device),
        mask,
    )


def save_starts(file: Path, found: dict[str, State]) -> None:
    """Write the starts of one model."""
    write_whole(file, found)


def load_starts(file: Path) -> dict[str, State]:
    """Read them again."""
    found: dict[str, State] = torch.load(file, weights_only=True)
    return found


def models(task: str, size: Size, seeds: Sequence[int], device: str) -> Replicas:
    """Return untrained models that fit a task."""
    context = TASKS[task].width + TASKS[task].length
    return Replicas(seeds, width=size.width, layers=size.layers, heads=size.heads, context=context, device=device)


def _stack(arrays: Sequence[IntArray], device: str) -> Tensor:
    return torch.from_numpy(np.stack(arrays)).to(device)
