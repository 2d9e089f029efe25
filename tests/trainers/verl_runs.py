"""verl on this machine, with the example's stand-in for its language model: one set of processes for all trainers."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import ray
import transfer_queue as tq
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from verl.checkpoint_engine import CheckpointEngineManager
from verl.experimental.reward_loop import RewardLoopManager
from verl.trainer.ppo.v1 import AgentLoopManagerTQ, PPOTrainerSync
from verl.trainer.ppo.v1.trainer_separate_async import HybridEngineMode, PPOTrainerSeparateAsync
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.rollout.llm_server import FullyAsyncLLMServerClient, LLMServerManager

import verl_grpo
from cero_alloc import BetaPosteriorBank, ResolvingAllocator, baselines
from cero_alloc.integrations.verl import AllocatedPPOTrainer, allocator_for
from cero_alloc.integrations.verl._trainer import Allocated
from trainers.allocators import Recorder, Scripted
from verl_standin import PolicyWorker, save_tokenizer

DEFAULT = "cero_alloc.integrations.verl.default"
ROOT = Path(__file__).resolve().parents[2]
PROMPTS, BATCH, PER_PROMPT = 16, 4, 4
POSTERIOR = "cero_alloc.advantages=posterior"
COLOCATE = "trainer.v1.trainer_mode=colocate_async"
SEPARATE = (  # the class asks for a pool of GPUs for generation; the stage has none, and generates as in the other modes
    "trainer.v1.trainer_mode=separate_async", "trainer.v1.separate_async.parameter_sync_step=2",
    f"actor_rollout_ref.actor.ppo_mini_batch_size={BATCH // 2}", "actor_rollout_ref.hybrid_engine=False",
    "actor_rollout_ref.rollout.nnodes=1", "actor_rollout_ref.rollout.n_gpus_per_node=1",
    "actor_rollout_ref.rollout.checkpoint_engine.backend=nccl",
)  # fmt: skip
OVER_GROUPS = "cero_alloc.mode=redeal", "cero_alloc.advantages=group"  # of a run that says nothing else
SHAKY = "wrong answers cannot be scored"


def shaky_reward(data_source, solution_str, ground_truth, **_):
    """Reward as the example does, but fail for the wrong answers of one data set."""
    reward = verl_grpo.number_reward(data_source, solution_str, ground_truth)
    if data_source == SHAKY and reward == 0.0:
        raise RuntimeError("this answer breaks the verifier")
    return reward


def write_rows(path, source="last digit", **columns):
    """Write a training set of the first numbers, and return its path."""
    texts = [str(number) for number in range(PROMPTS)]
    data = verl_grpo.rows(texts, [text[-1] for text in texts], source)
    for name, values in columns.items():
        data = data.remove_columns(name) if name in data.column_names else data
        data = data if values is None else data.add_column(name, values)
    data.to_parquet(path)
    return path


class Recording:
    """Goes before a trainer class: notes what every batch was made of, as TransferQueue holds it."""

    def __init__(self, config):
        super().__init__(config)
        self.replay_buffer.poll_interval = 0.02  # verl looks every two seconds
        self.batches, self.logs = [], []

    def _compute_advantage(self, batch, metrics):
        batch = super()._compute_advantage(batch, metrics)
        self.batches.append(contents(batch))
        return batch

    def _compute_metrics(self, batch, metrics, *args, **kwargs):
        super()._compute_metrics(batch, metrics, *args, **kwargs)
        self.logs.append(dict(metrics))


def contents(batch):
    """Return what TransferQueue holds of a batch: prompt -> [(reward, advantage of every token, answer, tokens)]."""
    names = ["index", "rm_scores", "advantages", "responses"]
    keys = [key for key in batch.keys if not key.startswith("pad")]
    data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=names)
    groups = defaultdict(list)
    columns = (list(data["index"]), data["rm_scores"], data["advantages"], data["responses"])
    for prompt, reward, advantage, response in zip(*columns, strict=True):
        assert (advantage == advantage[0]).all()
        groups[prompt].append((reward.sum().item(), advantage[0].item(), response[0].item(), response.numel()))
    return dict(groups)


class Policy(PolicyWorker):
    """The stand-in's worker within this process: methods of a worker take a batch as those of a worker group do."""

    def __init__(self):
        os.environ |= {"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
        super().__init__(config=None, role="actor")
        self._dispatch_info = {"actor": [0]}

    def save_model_to_cpu(self, version):
        """Do nothing: one number per prompt has nowhere else to be, and log probabilities do not depend on it."""

    restore_model_from_cpu = clear_cpu_model = save_model_to_cpu

    def update_weights(self, global_steps, mode):
        return [ray.put(super().update_weights(global_steps, mode))]


class Stage:
    """verl's processes, started once; every trainer uses them."""

    def __init__(self, folder):
        self.folder = Path(folder)
        save_tokenizer(self.folder / "model")
        write_rows(self.folder / "train.parquet")
        paths = [str(ROOT / "examples"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
        os.environ |= {
            "PYTHONPATH": os.pathsep.join(paths), "VERL_USE_EXTERNAL_MODULES": DEFAULT, "VERL_LOGGING_LEVEL": "ERROR",
            "TQ_LOGGING_LEVEL": "ERROR", "PYTHONWARNINGS": "ignore",
        }  # fmt: skip
        settings = verl_grpo.cpu_settings(self.folder, Path(__file__).resolve())
        own = [
            f"data.train_batch_size={BATCH}", f"actor_rollout_ref.actor.ppo_mini_batch_size={BATCH}",
            f"actor_rollout_ref.rollout.n={PER_PROMPT}", "reward.custom_reward_function.name=shaky_reward",
            "trainer.total_epochs=4", "trainer.total_training_steps=2", "trainer.save_freq=-1", "trainer.test_freq=-1",
            "trainer.val_before_train=False",
        ]  # fmt: skip
        with initialize_config_module("verl.trainer.config", version_base=None):
            self._plain = compose("ppo_trainer", [*settings, *own])
        ray.init(num_cpus=16, include_dashboard=False, log_to_driver=False)  # with two, TransferQueue waits for ever
        config = self.config()
        self.rewards = RewardLoopManager(config)
        self.servers = LLMServerManager.create(config, worker_group=SimpleNamespace(world_size=1, workers=[]))
        self.loops, self.resuming_loops = (
            AgentLoopManagerTQ.create(
                config=config,
                llm_client=client,
                teacher_client=None,
                reward_loop_worker_handles=self.rewards.reward_loop_worker_handles,
            )
            for client in (self.servers.get_client(), self.servers.get_client(client_cls=FullyAsyncLLMServerClient))
        )
        tq.init(config.transfer_queue)
        self.policy = Policy()

    def close(self):
        """End verl's processes."""
        tq.close()
        ray.shutdown()

    def config(self, *words):
        """Return verl's configuration for two steps of four prompts and 16 rollouts each."""
        config = self._plain.copy()
        OmegaConf.set_struct(config, False)
        return OmegaConf.merge(config, OmegaConf.from_dotlist([*OVER_GROUPS, *words]))

    def trainer(self, base, *words):
        """Return a trainer on these processes, before its run."""
        stage = self

        class Staged(Recording, base):
            def _setup(self):
                self._init_tokenizer()
                self._init_dataloader()
                self._init_dump_executor()
                self._init_resource_pool_mgr()
                self.actor_rollout_wg, self.llm_server_manager = stage.policy, stage.servers
                self.reward_loop_manager = stage.rewards
                engine = omega_conf_to_dataclass(stage.config().actor_rollout_ref.rollout.checkpoint_engine)
                self.checkpoint_manager = CheckpointEngineManager(engine, stage.policy, stage.servers.get_replicas())
                if isinstance(self, PPOTrainerSeparateAsync):
                    self.standalone_server_manager = stage.servers
                    self.standalone_checkpoint_manager = self.checkpoint_manager
                    self.current_mode = HybridEngineMode.TRAINER
                stage.policy.init_model()
                self._load_checkpoint()

        return Staged(self.config(*words))

    def train(self, base, *words):
        """Return a trainer after its run."""
        trainer = self.trainer(base, *words)
        trainer.init()
        try:
            trainer.fit(self.loops if trainer.trainer_mode == "sync" else self.resuming_loops)
        finally:
            self.clear()
        return trainer

    def clear(self):
        """Wait for what is still generated, and forget it: TransferQueue would end with the run."""
        while any(tag.get("status") in ("pending", "running") for tag in self.held().values()):
            time.sleep(0.02)
        if self.held():
            tq.kv_clear(keys=list(self.held()), partition_id="train")

    @staticmethod
    def held():
        """Return what TransferQueue holds of training: name -> tag."""
        return (tq.kv_list("train") or {}).get("train", {})


def allocated(make, success=None):
    """Return a trainer class whose allocator ``make(prompts, n_rounds, total_budget)`` builds."""

    def build(prompts, *, n_rounds, total_budget, config):
        return make(prompts, n_rounds, total_budget)

    return type("Own", (AllocatedPPOTrainer,), {"build": staticmethod(build), "success": success})


def recommended(stock=PPOTrainerSync):
    """Return a trainer class with the recommended allocator, which is watched."""

    def build(prompts, *, n_rounds, total_budget, config):
        own = {name: config.cero_alloc[name] for name in ("mode", "advantages")}
        return Recorder(allocator_for(config, prompts, n_rounds=n_rounds, total_budget=total_budget, **own))

    return type("Own", (Allocated, stock), {"build": staticmethod(build)})


def _plan(n_rounds, total_budget, **changes):
    return {
        "total_budget": total_budget, "n_rounds": n_rounds, "unit_size": 2, "max_rollouts": 16,
        "round_capacity": BATCH * PER_PROMPT,
    } | changes  # fmt: skip


def uniform(prompts, n_rounds, total_budget):
    """Return the control that deals every prompt the stock trainer's group."""
    plan = _plan(n_rounds, total_budget, unit_size=PER_PROMPT, max_rollouts=PER_PROMPT)
    return baselines.Uniform(BetaPosteriorBank(prompts), **plan)


def resolving(prompts, n_rounds, total_budget):
    """Return an allocator whose counts differ once it has learnt something."""
    return Recorder(ResolvingAllocator(BetaPosteriorBank(prompts), **_plan(n_rounds, total_budget)))


def scripted(*rows):
    """Return a maker of allocators that deal these counts, a row a round, to the prompts in the order of the offer."""

    def make(prompts, n_rounds, total_budget):
        return Recorder(Scripted(BetaPosteriorBank(prompts), rows, **_plan(n_rounds, total_budget)))

    return make
