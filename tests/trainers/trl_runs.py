"""Runs of the TRL example's tiny model, stock and allocated; as a program, one run of a process group."""

from __future__ import annotations

import gc
import os
import sys
import weakref
from pathlib import Path

import numpy as np
import torch
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from cero_alloc import BetaPosteriorBank, ResolvingAllocator
from cero_alloc.baselines import Uniform
from cero_alloc.integrations.trl import AllocatedGRPOTrainer, generation_rounds
from trainers.allocators import Recorder
from trl_grpo import opening_reward, tiny_dataset, tiny_model, tiny_tokenizer


def config(folder, **settings):
    """Return a configuration of six steps of 8 prompts and 4 rollouts each."""
    plain = {
        "output_dir": str(folder), "max_steps": 6, "learning_rate": 3e-3, "num_generations": 4, "report_to": "none",
        "max_completion_length": 3, "per_device_train_batch_size": 16, "gradient_accumulation_steps": 2, "use_cpu": True,
        "bf16": False, "gradient_checkpointing": False, "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip
    return GRPOConfig(**plain | settings)


def train(folder, allocator=None, *, reward=opening_reward, dataset=None, resume=None, callbacks=None, **settings):
    """Return the trainer after its run; ``allocator`` maps a configuration to an allocator, None is the stock trainer."""
    trainer = build(folder, allocator, reward=reward, dataset=dataset, callbacks=callbacks, **settings)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def build(folder, allocator=None, *, reward=opening_reward, dataset=None, callbacks=None, **settings):
    """Return the trainer before its run."""
    own = {key: settings.pop(key) for key in ("mode", "group_weighting", "id_column", "success") if key in settings}
    tokenizer = tiny_tokenizer()
    args = config(folder, **settings)
    model = tiny_model(tokenizer)
    if args.beta:  # the reference is loaded by name
        model.save_pretrained(Path(folder) / "model")
        model = str(Path(folder) / "model")
    common = {
        "model": model, "reward_funcs": reward, "args": args, "processing_class": tokenizer,
        "train_dataset": tiny_dataset(32) if dataset is None else dataset, "callbacks": callbacks,
    }  # fmt: skip
    return (
        GRPOTrainer(**common) if allocator is None else AllocatedGRPOTrainer(**common, allocator=allocator(args), **own)
    )


def plan(args, **changes):
    """Return the arguments of an allocator for a run."""
    slots, rounds = args.generation_batch_size, generation_rounds(args)
    run = {"total_budget": rounds * slots, "n_rounds": rounds, "unit_size": 2, "max_rollouts": 16}
    return run | {"round_capacity": slots} | changes


def uniform(args):
    """Return the control that deals every prompt the stock trainer's group."""
    n = args.num_generations
    return Uniform(BetaPosteriorBank(32), **plan(args, unit_size=n, max_rollouts=n))


def resolving(args):
    """Return an allocator whose counts differ."""
    return ResolvingAllocator(BetaPosteriorBank(32), **plan(args))


def parameters(trainer):
    """Return all parameters as one vector."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    return torch.cat([p.detach().flatten() for p in model.parameters()]).numpy().copy()


class Kill(TrainerCallback):
    """Ends the process without any good-bye when the step is over."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            os._exit(17)


def main(folder, what, *words):
    """Run and leave this process's parameters and the main one's rounds in the folder."""
    # Rows in order: TRL shuffles from the start again when it resumes, so that its second epoch would be another one.
    settings = {"max_steps": 12, "shuffle_dataset": False}
    settings |= {"save_strategy": "steps", "save_steps": 2} if "saving" in words else {}
    settings |= {"mode": "select"} if "select" in words else {}
    recorders = []

    def make(args):
        recorders.append(Recorder({"uniform": uniform, "resolving": resolving}[what](args)))
        return recorders[0]

    kill = [Kill(7)] if "kill" in words else None
    batch = {"per_device_train_batch_size": 8} if "WORLD_SIZE" in os.environ else {}
    trainer = train(
        folder, None if what == "stock" else make, resume="resume" in words or None, callbacks=kill, **settings, **batch
    )
    rank = trainer.accelerator.process_index
    rounds = recorders[0].rounds if recorders else []
    np.savez(Path(folder) / f"rank{rank}.npz", parameters=parameters(trainer), rounds=np.array(repr(rounds)))
    if torch.distributed.is_initialized():  # together: gloo aborts a process whose peer went first
        trainer.accelerator.wait_for_everyone()
        # The model's reducer holds the group. Freed after it, it would end gloo's thread while it keeps that thread from
        # the interpreter lock: one process in some sixty then waits for ever.
        held = weakref.ref(trainer.model_wrapped)
        del trainer, recorders
        gc.collect()
        assert held() is None, "the distributed model must be freed before its process group"
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
