"""GRPO and its rivals on a small language model: warm start, rounds, and runs that go on where they were stopped."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from studies.learning.dealing import Dealing, Run, dead
from studies.learning.llm_decoder import Decoder, Sampler
from studies.learning.llm_model import restore, state_of
from studies.learning.llm_prompts import Prompts, Sizes, World, by_band
from studies.learning.pauses import Pauses, State, load_state, save_state

FloatArray = npt.NDArray[np.float64]

RAMP = 16  # rounds over which the learning rate rises to its value, as in the transformer study
LARGEST = 1.0  # norm of a gradient, to which longer ones are cut, as the trainers do


@dataclass(frozen=True, slots=True)
class Setting:
    """The sizes of a study.

    Attributes
    ----------
    prompts : Sizes
        Of a seed's sets of questions.
    n_rounds, rollouts : int
        Rounds of a run, and rollouts per round.
    measured : int
        Rounds between measurements of held-out success.
    warm_steps, warm_batch, warm_rate
        Supervised steps on right answers, answers per step, and learning rate.
    side_by_side : int
        Rollouts sampled at a time.
    portion : int
        Answers per pass of a likelihood.
    """

    prompts: Sizes
    n_rounds: int
    rollouts: int
    measured: int
    warm_steps: int
    warm_batch: int
    warm_rate: float
    side_by_side: int
    portion: int


def warm_start(model: Any, world: World, setting: Setting, seed: int) -> None:
    """Train on right answers to the questions of the warm start, so that the model answers in their format."""
    decoder, rng = Decoder(model, world.shape), np.random.default_rng([seed, 5])
    optimiser = _optimiser(model, setting.warm_rate)
    prompts = world.warm
    for step in range(setting.warm_steps):
        rows = rng.integers(0, len(prompts.problems), setting.warm_batch)
        weights = np.full(len(rows), 1.0 / len(rows))
        answers = torch.from_numpy(prompts.answers[rows])
        _ascend(optimiser, decoder, prompts, rows, answers, weights, setting, min(1.0, (step + 1) / RAMP))


def success(decoder: Decoder, prompts: Prompts, portion: int) -> FloatArray:
    """Return the exact probability of each right answer as it is worded, shape (n_prompts,): no noise of sampling."""
    found = []
    with torch.no_grad():
        for i in range(0, len(prompts.problems), portion):
            rows = np.arange(i, min(i + portion, len(prompts.problems)))
            answers = torch.from_numpy(prompts.answers[rows])
            found.append(_likelihood(decoder, prompts, rows, answers).exp().double().cpu().numpy())
    return np.concatenate(found)


class Training:
    """One run, which can be saved after any round.

    Parameters
    ----------
    run : Run
        Policy, learning rate and seed.
    model : LlamaForCausalLM
        At its start; it is trained in place.
    world : World
        Of the run's seed.
    setting : Setting
        Sizes.
    graphs : bool
        Whether sampling runs as CUDA graphs.
    """

    _PLAIN = ("round", "curves", "dead", "seconds")  # saved as they are

    def __init__(self, run: Run, model: Any, world: World, setting: Setting, graphs: bool = False) -> None:
        self.run, self.world, self.setting, self.model = run, world, setting, model
        self.decoder = Decoder(model, world.shape)
        self.sampler = Sampler(self.decoder, setting.side_by_side, graphs)
        self.optimiser = _optimiser(model, run.learning_rate)
        self.dealing = Dealing(run, len(world.train.problems), setting.n_rounds, setting.rollouts)
        self.round = 0
        self.seconds = 0.0
        self.curves: dict[str, list[float]] = {}
        self.dead = 0.0
        device = self.decoder.device
        self._tokens, self._blanks = (torch.from_numpy(a).to(device) for a in (world.train.tokens, world.train.blanks))

    def finish(self, file: Path, pauses: Pauses) -> State | None:
        """Run what is left, saving into ``file``; return what the record says, or None where the run was stopped."""
        self.load(file)
        started = time.monotonic() - self.seconds

        def save() -> None:
            self.seconds = time.monotonic() - started
            self.save(file)

        if not self.curves:
            self._measure()
            self.dead = dead(self._success(self.world.train))
        while self.round < self.setting.n_rounds:
            if pauses.check(save):
                return None
            self.play()
        self.seconds = time.monotonic() - started
        record = self.record()
        file.unlink(missing_ok=True)
        return record

    def play(self) -> None:
        """Run one round: deal, answer, grade, step, and measure where it is due."""
        dealing, k = self.dealing, self.round
        if dealing.clairvoyant and k % self.setting.measured == 0:
            dealing.tell(self._success(self.world.train))
        # Every round has a generator of its own, so that a run that goes on needs no other random state.
        rng = np.random.default_rng([self.run.seed, 2, k])
        asked, told, won = [], [], []
        rows, n = dealing.open(k)
        while not asked or rows.size:  # a round without rollouts takes its step too, by momentum
            each = np.repeat(rows, n)
            answers = self._sample(each, rng.random((each.size, self.world.shape.length), dtype=np.float32))
            right = self.world.right(each, answers.cpu().numpy())
            asked.append(each)
            told.append(answers)
            won.append(right)
            rows, n = dealing.close(rows, n, right)
        each = np.concatenate(asked)
        weights = dealing.weights(each, np.concatenate(won))
        ramp = min(1.0, (k + 1) / RAMP)
        _ascend(self.optimiser, self.decoder, self.world.train, each, torch.cat(told), weights, self.setting, ramp)
        self.round += 1
        if self.round % self.setting.measured == 0 or self.round == self.setting.n_rounds:
            self._measure()

    def _sample(self, each: npt.NDArray[np.int64], uniforms: npt.NDArray[np.float32]) -> Tensor:
        group = torch.from_numpy(each).to(self.decoder.device)
        return self.sampler.sample(self._tokens, self._blanks, group, uniforms)

    def _success(self, prompts: Prompts) -> FloatArray:
        return success(self.decoder, prompts, self.setting.portion)

    def _measure(self) -> None:
        rates = self._success(self.world.held)
        points = {"held_out": float(rates.mean()), **by_band(rates, self.world.held)}
        for name, value in points.items():
            self.curves.setdefault(name, []).append(round(value, 6))
        self.curves.setdefault("rollouts", []).append(self.dealing.spent)

    def record(self) -> State:
        """Return what the record says of a finished run."""
        curves = dict(self.curves)
        return {
            "rollouts": curves.pop("rollouts"),
            "held_out": curves.pop("held_out"),
            "bands": curves,
            "trained": round(float(self._success(self.world.train).mean()), 6),
            "dead": round(self.dead, 4),  # expected share of groups of 8 that are alike, at the start
            "seconds": round(self.seconds, 1),
            **self.dealing.figures(),
        }

    def save(self, file: Path) -> None:
        """Write everything that later rounds depend on."""
        state = {name: getattr(self, name) for name in self._PLAIN}
        state |= {
            "model": state_of(self.model),
            "optimiser": self.optimiser.state_dict(),
            "dealing": self.dealing.state_dict(),
        }
        save_state(file, [self.run], self.setting, state)

    def load(self, file: Path) -> None:
        """Go on from what :meth:`save` wrote, where there is such a file; raise ValueError if it is of another run."""
        state = load_state(file, [self.run], self.setting)
        if state is None:
            return
        restore(self.model, state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.dealing.load_state_dict(state["dealing"])
        for name in self._PLAIN:
            setattr(self, name, state[name])


def _optimiser(model: Any, rate: float) -> torch.optim.AdamW:
    """Return AdamW without decay; gradients stay in place, so that a round without any moves by momentum alone."""
    parameters = list(model.parameters())
    for p in parameters:
        p.grad = torch.zeros_like(p)
    return torch.optim.AdamW(parameters, rate, betas=(0.9, 0.99), weight_decay=0.0)


def _ascend(
    optimiser: torch.optim.AdamW,
    decoder: Decoder,
    prompts: Prompts,
    rows: npt.NDArray[np.int64],
    answers: Tensor,
    weights: FloatArray,
    setting: Setting,
    ramp: float,
) -> None:
    """Step up the gradient of the weighted sum of log-likelihoods; answers without a weight are not read."""
    optimiser.zero_grad(set_to_none=False)
    used = np.flatnonzero(weights)
    for i in range(0, used.size, setting.portion):
        places = used[i : i + setting.portion]
        likelihood = _likelihood(decoder, prompts, rows[places], answers[torch.from_numpy(places).to(answers.device)])
        weight = torch.from_numpy(weights[places].astype(np.float32)).to(decoder.device)
        (-(likelihood * weight).sum()).backward()
    parameters = optimiser.param_groups[0]["params"]
    torch.nn.utils.clip_grad_norm_(parameters, LARGEST)
    group = optimiser.param_groups[0]
    rate = group["lr"]
    group["lr"] = rate * ramp
    optimiser.step()
    group["lr"] = rate


def _likelihood(decoder: Decoder, prompts: Prompts, rows: npt.NDArray[np.int64], answers: Tensor) -> Tensor:
    asked, blanks = (torch.from_numpy(a[rows]).to(decoder.device) for a in (prompts.tokens, prompts.blanks))
    return decoder.log_likelihood(asked, blanks, answers.to(decoder.device))
