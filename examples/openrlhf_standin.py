"""Stand-ins for vLLM, DeepSpeed and FlashAttention, so that OpenRLHF runs on a CPU: the rest of OpenRLHF is OpenRLHF.

The engine samples from a small model token by token, DeepSpeed is PyTorch's AdamW in one process, and weights travel from
one to the other through a key-value store of ``torch.distributed``. Trainer, policy actor, rollout actor, reward function,
data loader, experience maker, loss and checkpoints are the installed ones. :func:`install` puts the stand-ins where Python
looks for modules; Ray's workers need it before they import anything else (``worker_process_setup_hook``).
"""

from __future__ import annotations

import json
import math
import os
import string
import sys
from contextlib import nullcontext
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

LETTERS = string.ascii_lowercase


def install() -> None:
    """Make the stand-ins importable under the names of what they stand for."""
    modules: dict[str, dict[str, Any]] = {
        "vllm": {
            "__version__": "0.29.0", "SamplingParams": SamplingParams, "AsyncEngineArgs": SimpleNamespace,
            "AsyncLLMEngine": AsyncLLMEngine,
        },
        "vllm.inputs": {"TokensPrompt": dict},
        "vllm.utils": {"random_uuid": str},
        "vllm.distributed.utils": {"StatelessProcessGroup": StatelessProcessGroup},
        "vllm.distributed.device_communicators.pynccl": {"PyNcclCommunicator": Communicator},
        "deepspeed": {
            "__version__": "0.19.6", "DeepSpeedEngine": DeepSpeedEngine, "initialize": initialize,
            "init_distributed": lambda timeout: torch.distributed.init_process_group("gloo", timeout=timeout),
            "zero": SimpleNamespace(GatheredParameters=lambda parameters, enabled: nullcontext()),
        },
        "deepspeed.checkpoint.utils": {"clone_tensors_for_torch_save": dict},
        "deepspeed.runtime.zero.partition_parameters": {"ZeroParamStatus": None},
        # What packed samples use, and a CPU does not.
        "flash_attn.bert_padding": dict.fromkeys(["index_first_axis", "pad_input", "rearrange", "unpad_input"]),
        "flash_attn.utils.distributed": {"all_gather": None},
    }  # fmt: skip
    for name, contents in modules.items():
        for depth in range(name.count(".") + 1):
            parent = name.rsplit(".", depth)[0]
            module = sys.modules.setdefault(parent, ModuleType(parent))
            module.__spec__, module.__path__ = ModuleSpec(parent, None), []
        vars(sys.modules[name]).update(contents)
    if not torch.cuda.is_available():
        torch.cuda.current_device = lambda: Cpu("cpu")
        for name in ("set_device", "synchronize", "current_stream"):
            setattr(torch.cuda, name, lambda *_: None)  # one each: torch.compile's tables take no function twice


def start() -> None:
    """Install the stand-ins here and in all of Ray's workers, and start Ray on this machine."""
    import ray

    install()
    here = str(Path(__file__).resolve().parent)
    variables = {
        "PYTHONPATH": os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1",
    }  # fmt: skip
    # By name alone: OpenRLHF asks for a CPU and a GPU per model and engine, and Ray starts a worker per CPU beforehand.
    ray.init(
        num_cpus=4, num_gpus=4, include_dashboard=False, ignore_reinit_error=True,
        runtime_env={"worker_process_setup_hook": install, "env_vars": variables},
    )  # fmt: skip


class Cpu(str):
    """The CPU as a device, 0 where OpenRLHF writes it into the name of a GPU."""

    def __format__(self, _: str) -> str:
        return "0"


class SamplingParams(SimpleNamespace):
    """What a request asks for."""


class AsyncLLMEngine:
    """Samples from a model of transformers, one token after another."""

    def __init__(self, arguments: SimpleNamespace) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(arguments.model).float().eval()
        self.random = torch.Generator().manual_seed(arguments.seed)
        self.output_processor = SimpleNamespace(get_num_unfinished_requests=lambda: 0)  # it answers at once

    from_engine_args = classmethod(lambda cls, arguments: cls(arguments))

    async def is_sleeping(self) -> bool:
        """Return False: it never sleeps."""
        return False

    @torch.no_grad()
    def sample(self, prompt: list[int], sampling: SamplingParams) -> list[int]:
        """Return the tokens that go on from a prompt, the end token among them."""
        tokens = list(prompt)
        while len(tokens) - len(prompt) < sampling.max_tokens:
            logits = self.model(torch.tensor([tokens])).logits[0, -1] / sampling.temperature
            tokens.append(int(torch.multinomial(logits.softmax(-1), 1, generator=self.random)))
            if tokens[-1] == self.model.config.eos_token_id:
                break
        return tokens[len(prompt) :]

    async def generate(self, prompt: dict[str, Any], sampling: SamplingParams, request_id: str) -> Any:
        """Yield a request's one and final output."""
        tokens = self.sample(prompt["prompt_token_ids"], sampling)
        reason = "stop" if tokens[-1] == self.model.config.eos_token_id else "length"
        yield SimpleNamespace(outputs=[SimpleNamespace(token_ids=tokens, finish_reason=reason, logprobs=None)])

    async def collective_rpc(self, method: str, args: tuple[Any, ...]) -> None:
        """Call one of the two methods below, which vLLM's workers have from OpenRLHF."""
        getattr(self, method)(*args)

    def init_process_group(self, host: str, port: int, rank: int, world_size: int, *_: Any) -> None:
        """Join the group that weights come through."""
        self.group = Communicator(StatelessProcessGroup.create(host, port, rank, world_size), "cpu")

    @torch.no_grad()
    def update_weight(self, name: str, dtype: torch.dtype, shape: Any, empty_cache: bool) -> None:
        """Take over one parameter of the policy."""
        weight = torch.empty(shape, dtype=dtype)
        self.group.broadcast(weight, src=0, stream=None)
        self.model.get_parameter(name).copy_(weight)


class StatelessProcessGroup(SimpleNamespace):
    """A key-value store that rank 0 keeps."""

    @classmethod
    def create(cls, host: str, port: int, rank: int, world_size: int) -> StatelessProcessGroup:
        """Return the store, once all workers have joined."""
        return cls(store=torch.distributed.TCPStore(host, port, world_size, is_master=rank == 0), rank=rank)


class Communicator:
    """Hands tensors on through the store, the n-th to the n-th."""

    def __init__(self, group: StatelessProcessGroup, device: Any) -> None:
        self.group, self.passed = group, 0

    def broadcast(self, tensor: torch.Tensor, src: int, stream: Any) -> None:
        """Send the tensor, or fill it with what was sent."""
        key, self.passed = str(self.passed), self.passed + 1
        if self.group.rank == src:
            self.group.store.set(key, tensor.detach().numpy().tobytes())
        else:
            tensor.copy_(torch.frombuffer(bytearray(self.group.store.get(key)), dtype=tensor.dtype).view(tensor.shape))


class DeepSpeedEngine(torch.nn.Module):
    """A model in single precision with AdamW, accumulation and clipping."""

    def __init__(self, model: torch.nn.Module, parameters: Any, schedule: Any, config: dict[str, Any]) -> None:
        super().__init__()
        self.module, self.config, self.micro_steps, self.norm = model.float(), config, 0, None
        self.accumulation = config["train_batch_size"] // config["train_micro_batch_size_per_gpu"]
        self.optimizer = parameters and torch.optim.AdamW(parameters, **config["optimizer"]["params"])
        self.scheduler = schedule and schedule(self.optimizer)

    def forward(self, *args: Any, **more: Any) -> Any:
        """Call the model."""
        return self.module(*args, **more)

    def backward(self, loss: torch.Tensor) -> None:
        """Add a micro batch's gradient."""
        (loss / self.accumulation).backward()

    def step(self) -> None:
        """Step at the end of an accumulation."""
        self.micro_steps += 1
        if self.micro_steps % self.accumulation == 0:
            limit = self.config["gradient_clipping"] or math.inf
            self.norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), limit)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.scheduler.step()

    def get_global_grad_norm(self) -> torch.Tensor | None:
        """Return the gradient's norm before the last clipping."""
        return self.norm

    def save_checkpoint(self, folder: str, tag: str, client_state: dict[str, Any], save_latest: bool) -> None:
        """Write model, optimizer and the trainer's states."""
        own = {name: getattr(self, name).state_dict() for name in ("module", "optimizer", "scheduler")}
        Path(folder, tag).mkdir(parents=True, exist_ok=True)
        torch.save(own | {"client_state": client_state}, Path(folder, tag, "states.pt"))
        Path(folder, "latest").write_text(tag)

    def load_checkpoint(self, folder: str, tag: str | None, **_: bool) -> tuple[str, dict[str, Any]]:
        """Read what was written last, or under a tag."""
        path = Path(folder, tag or Path(folder, "latest").read_text(), "states.pt")
        saved = torch.load(path, weights_only=False)
        for name in ("module", "optimizer", "scheduler"):
            getattr(self, name).load_state_dict(saved[name])
        return str(path), saved["client_state"]


def initialize(
    model: torch.nn.Module, config: dict[str, Any], model_parameters: Any = None, lr_scheduler: Any = None, **_: Any
) -> tuple[Any, ...]:
    """Return what DeepSpeed's function of that name does; without parameters the model is only looked at."""
    engine = DeepSpeedEngine(model, model_parameters, lr_scheduler, config)
    return engine, engine.optimizer, None, engine.scheduler


def prepare(folder: Path, n_prompts: int = 64) -> None:
    """Write a tiny Llama, its tokenizer of single characters, and prompts that allow 0 to 21 letters to open with."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

    vocabulary = {token: place for place, token in enumerate(["<pad>", "<eos>", *LETTERS, *string.digits, " "])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>").save_pretrained(
        folder / "model"
    )
    set_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None, "max_position_embeddings": 64}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(vocabulary), **shape, **special)).save_pretrained(folder / "model")
    rows = [{"input": f"{i} ", "label": LETTERS[: 3 * (i % 8)]} for i in range(n_prompts)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def reward_func(queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, Any]:
    """Return 1 for a completion that opens with an allowed letter, as OpenRLHF asks for it: one query at a time."""
    opening = queries[0].removeprefix(prompts[0])[:1]
    return {"rewards": float(opening != "" and opening in labels[0])}
