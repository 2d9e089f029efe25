"""Runs of the TRL example's tiny model, stock and allocated; as a program, one run of a process group."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import torch
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from cero_alloc import BetaPosteriorBank, ResolvingAllocator
from cero_alloc.baselines import Uniform
from cero_alloc.integrations.trl import AllocatedGRPOTrainer, allocator_for, generation_rounds
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


def train(folder, allocator=None, *, reward=opening_reward, dataset=None, resume=None, **settings):
    """Return the trainer after its run; ``allocator`` makes one of a configuration, ``built`` none, None is the stock trainer."""
    trainer = build(folder, allocator, reward=reward, dataset=dataset, **settings)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def build(
    folder, allocator=None, *, reward=opening_reward, dataset=None, callbacks=None, eval_dataset=None, **settings
):
    """Return the trainer before its run."""
    names = ("mode", "advantages", "group_weighting", "id_column", "success")
    own = {"mode": "redeal", "advantages": "group"} | {key: settings.pop(key) for key in names if key in settings}
    tokenizer = tiny_tokenizer()
    args = config(folder, **settings)
    model = tiny_model(tokenizer)
    if args.beta:  # the reference is loaded by name
        model.save_pretrained(Path(folder) / "model")
        model = str(Path(folder) / "model")
    common = {
        "model": model, "reward_funcs": reward, "args": args, "processing_class": tokenizer,
        "train_dataset": tiny_dataset(32) if dataset is None else dataset, "callbacks": callbacks, "eval_dataset": eval_dataset,
    }  # fmt: skip
    return (
        GRPOTrainer(**common) if allocator is None else AllocatedGRPOTrainer(**common, allocator=allocator(args), **own)
    )


def plan(args, **changes):
    """Return the arguments of an allocator for a run."""
    slots, rounds = args.generation_batch_size, generation_rounds(args)
    run = {"total_budget": rounds * slots, "n_rounds": rounds, "unit_size": 2, "max_rollouts": 16}
    return run | {"round_capacity": slots} | changes


def built(args):
    """Return no allocator: the trainer builds the recommended one."""


def uniform(args):
    """Return the control that deals every prompt the stock trainer's group."""
    n = args.num_generations
    return Uniform(BetaPosteriorBank(32), **plan(args, unit_size=n, max_rollouts=n))


def resolving(args):
    """Return an allocator whose counts differ."""
    return ResolvingAllocator(BetaPosteriorBank(32), **plan(args))


def single(args):
    """Return the recommended allocator of single rollouts, for 64 prompts."""
    return allocator_for(args, tiny_dataset(64))


def parameters(trainer):
    """Return all parameters as one vector."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    return torch.cat([p.detach().flatten() for p in model.parameters()]).numpy().copy()


def environment():
    """Return this process's environment, with the paths that the worker imports from, on one thread."""
    root = Path(__file__).resolve().parents[2]
    paths = [str(root / "examples"), str(root / "tests"), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def work(folder, *words, processes=1, code=0):
    """Run this file as a program, and return what each process left; ``code`` is the exit status that it must have."""
    folder.mkdir(exist_ok=True)
    program = [__file__, str(folder), *words]
    launch = [sys.executable] if processes == 1 else [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)
    ]  # fmt: skip
    done = subprocess.run(
        [*launch, *program], env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == code, done.stderr[-3000:]
    return [dict(np.load(path)) for path in sorted(folder.glob("rank*.npz"))]


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
    settings |= {"save_strategy": "steps", "save_steps": 7, "num_iterations": 2} if "within" in words else {}
    settings |= {"mode": "select"} if "select" in words or "posterior" in words else {}
    settings |= {"advantages": "posterior", "dataset": tiny_dataset(64)} if "posterior" in words else {}
    recorders = []

    def make(args):
        recorders.append(Recorder({"uniform": uniform, "resolving": resolving, "single": single}[what](args)))
        return recorders[0]

    kill = [Kill(8 if "within" in words else 7)] if "kill" in words else None
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
