"""OpenRLHF's own trainer in this process, its models and engines in Ray actors; only the stand-ins are not OpenRLHF."""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import openrlhf_standin

openrlhf_standin.install()  # before anything of OpenRLHF

import ray  # noqa: E402
import torch  # noqa: E402
from openrlhf.trainer.ppo_trainer import PPOTrainer  # noqa: E402
from openrlhf.trainer.ppo_utils.experience import Experience  # noqa: E402
from openrlhf.trainer.ray.launcher import RayActorGroup  # noqa: E402
from openrlhf.trainer.ray.ppo_actor import PolicyModelActor  # noqa: E402
from openrlhf.utils import get_strategy  # noqa: E402

from cero_alloc import BetaPosteriorBank, ResolvingAllocator  # noqa: E402
from cero_alloc.baselines import Uniform  # noqa: E402
from cero_alloc.integrations.openrlhf import AllocatedPPOTrainer, allocator_for  # noqa: E402
from trainers.allocators import Recorder, Scripted  # noqa: E402

REWARD = Path(__file__).with_name("openrlhf_reward.py")


def parse(*arguments):
    """Return OpenRLHF's arguments as its own program parses and completes them."""

    class Parsed(Exception):
        pass

    def stop(args):
        raise Parsed(args)

    with (
        mock.patch("ray.is_initialized", return_value=True),
        mock.patch("openrlhf.utils.get_strategy", stop),  # the program's first step once it has its arguments
        mock.patch.object(sys, "argv", ["train_ppo_ray", *map(str, arguments)]),
    ):
        try:
            runpy.run_module("openrlhf.cli.train_ppo_ray", run_name="__main__")
        except Parsed as parsed:
            return parsed.args[0]
    raise AssertionError("the program did not parse its arguments")


def write(folder, labels):
    """Write the prompts "0 ", "1 ", ... with their labels."""
    rows = [{"input": f"{place} ", "label": str(label)} for place, label in enumerate(labels)]
    path = Path(folder) / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings(model, prompts, folder, **changes):
    """Return the arguments of a run of 8 prompts and 32 rollouts a step; ``None`` drops one, ``""`` makes it a flag."""
    plain = {
        "actor.model_name_or_path": model, "data.prompt_dataset": prompts, "data.label_key": "label",
        "reward.remote_url": REWARD, "algo.advantage.estimator": "group_norm", "algo.kl.init_coef": 0,
        "rollout.batch_size": 8, "rollout.n_samples_per_prompt": 4, "rollout.micro_batch_size": 8,
        "rollout.max_new_tokens": 3, "train.batch_size": 32, "train.micro_batch_size": 8, "data.max_len": 16,
        "vllm.num_engines": 1, "actor.num_gpus_per_node": 1, "ds.attn_implementation": "eager",
        "ckpt.path": Path(folder) / "checkpoints", "ckpt.output_dir": Path(folder) / "trained",
    }  # fmt: skip
    merged = plain | {name.replace("__", "."): value for name, value in changes.items()}
    pairs = ([f"--{name}", value] for name, value in merged.items() if value is not None)
    return parse(*(word for pair in pairs for word in pair if word != ""))


def policy(args, rollout_engines):
    """Start OpenRLHF's policy actor; with ``ckpt.load_enable`` it reads the last checkpoint."""
    group = RayActorGroup(1, 1, PolicyModelActor, num_gpus_per_actor=1)
    ray.get(
        group.async_init_model_from_pretrained(get_strategy(args), args.actor.model_name_or_path, 16, rollout_engines)
    )
    return group


def build(args, make=None, group=None, rollout_engines=None, success=None, mode="redeal", advantages="group"):
    """Return OpenRLHF's trainer in this process, with the adapter; without ``make`` the stock trainer."""
    kind, own = (PPOTrainer.__ray_actor_class__, {}) if make is None else (
        AllocatedPPOTrainer, {"build": make, "success": success, "mode": mode, "advantages": advantages}
    )  # fmt: skip
    return kind(
        args.actor.model_name_or_path, get_strategy(args), group, None, None, None, rollout_engines,
        do_sample=True, max_len=args.data.max_len, max_new_tokens=args.rollout.max_new_tokens,
        temperature=args.rollout.temperature, top_p=args.rollout.top_p, **own,
    )  # fmt: skip


def watch(trainer):
    """Return the list that will hold, step by step, the prompt and the reward of every rollout trained on."""
    steps, stock = [], trainer.train_step

    def train_step(samples, global_step):
        steps.append([(sample.prompts[0], sample.rewards.item()) for sample in samples])
        return stock(samples, global_step)

    trainer.train_step = train_step
    return steps


def horizon(args, n_rounds, total_budget, **changes):
    """Return the arguments of an allocator for a run."""
    slots = args.rollout.batch_size * args.rollout.n_samples_per_prompt
    plan = {"total_budget": total_budget, "n_rounds": n_rounds, "unit_size": 2, "max_rollouts": 16}
    return plan | {"round_capacity": slots} | changes


def resolving(prompts, *, n_rounds, total_budget, args):
    """Return an allocator whose counts differ."""
    return ResolvingAllocator(BetaPosteriorBank(prompts), **horizon(args, n_rounds, total_budget))


def uniform(prompts, *, n_rounds, total_budget, args):
    """Return the control that deals every prompt the stock trainer's group."""
    n = args.rollout.n_samples_per_prompt
    return Uniform(BetaPosteriorBank(prompts), **horizon(args, n_rounds, total_budget, unit_size=n, max_rollouts=n))


def recommended(mode, advantages):
    """Return a maker of the recommended allocator."""

    def make(prompts, *, args, **run):
        return allocator_for(args, prompts, mode=mode, advantages=advantages, **run)

    return make


def scripted(*rows):
    """Return a maker of allocators that deal these counts, a row a round, to the prompts in the order they come."""

    def make(prompts, *, n_rounds, total_budget, args):
        return Scripted(BetaPosteriorBank(prompts), rows, **horizon(args, n_rounds, total_budget))

    return make


def recorded(make, holder):
    """Return a maker of what ``make`` builds within a recorder, which goes into the list."""

    def wrapped(prompts, **run):
        holder.append(Recorder(make(prompts, **run)))
        return holder[-1]

    return wrapped


def experiences(prompts, rewards, seed=0, micro=5, shuffle=False):
    """Return experiences as they come from the models: random tokens and divergences, some responses cut off."""
    generator = torch.Generator().manual_seed(seed)
    n, width = len(prompts), 6
    places = torch.randperm(n, generator=generator) if shuffle else torch.arange(n)
    lengths = torch.randint(1, width + 1, (n,), generator=generator)
    mask = torch.arange(width) < lengths[:, None]
    kl = torch.randn((n, width), generator=generator) * mask
    cut = torch.rand(n, generator=generator) < 0.3
    made = []
    for some in places.split(micro):
        own = torch.tensor([rewards[place] for place in some])
        made.append(
            Experience(
                sequences=torch.zeros((len(some), width + 1), dtype=torch.long), action_mask=mask[some], kl=kl[some],
                rewards=own, response_length=lengths[some], truncated=cut[some], index=some.tolist(),
                prompts=[prompts[place] for place in some], info={"reward": own.clone()},
            )
        )  # fmt: skip
    return made


class Engines:
    """Handles of rollout actors that note requests and start nothing."""

    def __init__(self, n):
        self.requests = [[] for _ in range(n)]

    def handles(self):
        return [
            SimpleNamespace(
                get_num_unfinished_requests=SimpleNamespace(remote=lambda: ray.put(0)),
                generate_responses=SimpleNamespace(remote=lambda own=own, **request: own.append(request)),
            )
            for own in self.requests
        ]


def environment():
    """Let Ray's workers import what this process does."""
    root = Path(__file__).resolve().parents[2]
    paths = [str(root / "examples"), str(root / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
