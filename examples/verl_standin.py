"""A stand-in for the language model, so that verl runs on a CPU: the rest of verl is verl.

The model has one number per prompt: how likely it is to give the right answer, the last digit of the prompt. Of verl it
takes the place of the workers that hold the parameters and of the server that generates; the trainer, the data loader,
the agent loops, TransferQueue, the replay buffer, rewards, advantages and checkpoints are the installed ones. Name this
module last in ``VERL_USE_EXTERNAL_MODULES``, set ``actor_rollout_ref.rollout.name=standin``, and give Ray one GPU by name:
``+ray_kwargs.ray_init.num_gpus=1`` (nothing uses it).
"""

from __future__ import annotations

import logging
import math
import pickle
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import ray
import torch
from tensordict import TensorDict
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast
from verl.single_controller.base import Worker
from verl.single_controller.base.decorator import Dispatch, make_nd_compute_dataproto_dispatch_fn, register
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY
from verl.utils import tensordict_utils as tu
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry, TokenOutput

SERVER = "standin_server"
EOS = 11
LEARNING_RATE = 0.3


def save_tokenizer(folder: str | Path) -> None:
    """Write what verl reads of a model: its configuration, and a tokenizer in which digit d is token d."""
    vocabulary = {token: place for place, token in enumerate([*"0123456789", "<pad>", "<eos>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    fast.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    fast.save_pretrained(folder)
    LlamaConfig(vocab_size=len(fast), architectures=["LlamaForCausalLM"]).save_pretrained(folder)


def number_of(prompt: list[int]) -> int:
    """Return the number that a prompt's tokens spell."""
    return int("".join(map(str, prompt)))


class Skill:
    """How likely the right answer is, per prompt: from nearly never to nearly always before training."""

    def __init__(self) -> None:
        self.learnt: dict[int, float] = defaultdict(float)

    def rate(self, number: int) -> float:
        """Return the success rate of a prompt."""
        return 1.0 / (1.0 + math.exp(3.0 - number % 7 - self.learnt[number]))


@ray.remote
class Server:
    """Generates a digit per request, and every other time the end of the text after it: in the place of vLLM."""

    def __init__(self) -> None:
        self.skill, self.version, self.asked = Skill(), 0, Counter[int]()

    def load(self, skill: Skill, version: int) -> None:
        """Take over the trainer's parameters."""
        self.skill, self.version, self.asked = skill, version, Counter()

    def sleep(self) -> None:
        """Give back the memory of a GPU, if there were one."""

    def abort_all_requests(self, reject_request: bool = False) -> None:
        """Do nothing: a request is answered at once."""

    def resume_generation(self) -> None:
        """Do nothing: see above."""

    def generate(
        self, request_id: str, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any
    ) -> TokenOutput:
        """Answer right or wrong; the answers to a prompt depend on it, on the parameters' version and on nothing else."""
        number = number_of(prompt_ids)
        self.asked[number] += 1
        generator = torch.Generator().manual_seed(hash((self.version, number, self.asked[number])) % 2**31)
        right = torch.rand((), generator=generator).item() < self.skill.rate(number)
        tokens = [number % 10 if right else (number + 1) % 10] + [EOS] * (self.asked[number] % 2)
        return TokenOutput(token_ids=tokens, log_probs=[0.0] * len(tokens), extra_fields={"global_steps": self.version})


class Replica(RolloutReplica):
    """One server, found by name."""

    async def launch_servers(self) -> None:
        """Start the server, a process that needs no GPU."""
        self._server_handle = Server.options(name=SERVER, get_if_exists=True).remote()
        self._server_address, self.servers = SERVER, [self._server_handle]


class PolicyWorker(Worker):
    """Holds the parameters and trains them: in the place of verl's ActorRolloutRefWorker."""

    def __init__(self, config: Any, role: str, **_: Any) -> None:
        super().__init__()
        self._register_dispatch_collect_info("actor", dp_rank=self.rank, is_collect=True)
        self.skill = Skill()

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def init_model(self) -> None:
        """Start untrained."""
        self.skill = Skill()

    @register(dispatch_mode=make_nd_compute_dataproto_dispatch_fn(mesh_name="actor"))
    def compute_log_prob(self, data: TensorDict) -> TensorDict:
        """Return zeros: one update per batch makes their ratio 1 anyway."""
        zeros = torch.zeros_like(data["input_ids"], dtype=torch.float32)
        return tu.get_tensordict({"log_probs": zeros, "entropy": zeros.clone()}, {"metrics": {}})

    @register(dispatch_mode=make_nd_compute_dataproto_dispatch_fn(mesh_name="actor"))
    def update_actor(self, data: TensorDict) -> TensorDict:
        """Take one step along the policy gradient, which for one digit is advantage times (right - rate)."""
        steps: dict[int, list[float]] = defaultdict(list)
        for prompt, response, advantage in zip(data["prompts"], data["responses"], data["advantages"], strict=True):
            number = number_of(prompt.tolist())
            right = float(response[0].item() == number % 10)
            steps[number].append(advantage[0].item() * (right - self.skill.rate(number)))
        for number, parts in steps.items():
            self.skill.learnt[number] += LEARNING_RATE * math.fsum(parts)  # independent of the order of the parts
        return tu.get_tensordict({}, {"metrics": {"mfu": [0.0]}})

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def save_checkpoint(self, local_path: str, *_: Any, **__: Any) -> None:
        """Write the parameters."""
        Path(local_path).mkdir(parents=True, exist_ok=True)
        (Path(local_path) / "skill.pkl").write_bytes(pickle.dumps(dict(self.skill.learnt)))

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def load_checkpoint(self, local_path: str, *_: Any, **__: Any) -> None:
        """Read the parameters."""
        self.skill.learnt.update(pickle.loads((Path(local_path) / "skill.pkl").read_bytes()))

    @register(dispatch_mode=Dispatch.ONE_TO_ALL, blocking=False)
    def update_weights(self, global_steps: int, mode: str) -> None:
        """Hand the parameters to the server."""
        ray.get(ray.get_actor(SERVER).load.remote(self.skill, global_steps))


class StandIn:
    """Goes before a trainer class: its model is the stand-in."""

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        self.role_worker_mapping = dict.fromkeys(self.role_worker_mapping, ray.remote(PolicyWorker))


RolloutReplicaRegistry.register("standin", lambda: Replica)
for _mode, _trainer in list(TRAINER_REGISTRY.items()):
    TRAINER_REGISTRY[_mode] = type(f"StandIn{_trainer.__name__}", (StandIn, _trainer), {})
logging.getLogger("verl.utils.tokenizer").setLevel(logging.ERROR)  # it warns of an unknown model once a rollout
