"""Runs of TRL's asynchronous GRPO without a GPU or a server: its real loop, worker and trainer, and a policy of random letters.

Two stand-ins: ``_generate_one``, which would ask a vLLM server, and the attention kernel, which needs a GPU.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import queue
import random
import threading
import types
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from accelerate import PartialState
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback, set_seed
from trl.experimental.async_grpo import (
    AsyncGRPOConfig,
    AsyncGRPOTrainer,
    async_grpo_trainer,
    async_rollout_worker,
    packing,
)
from trl.experimental.async_grpo.async_rollout_worker import (
    AsyncRolloutWorker,
    RolloutGroup,
    TrainingSequence,
    _AsyncRolloutLoop,
)

from cero_alloc.integrations._rounds import Rounds
from cero_alloc.integrations.trl_async import AllocatedAsyncGRPOTrainer, AllocatedRolloutLoop
from cero_alloc.integrations.trl_async._loop import DEAL, EVENTS

N = 24  # prompts


def tokenizer():
    vocabulary = {token: place for place, token in enumerate(["<pad>", "<eos>", *"0123456789"])}
    tok = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.Split(Regex("."), "isolated"), decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tok, pad_token="<pad>", eos_token="<eos>", padding_side="left")
    fast.response_template, fast.chat_template = {}, "{{ messages[0]['content'] }}"
    return fast


def dataset(n=N, **more):
    """Return prompts of which the i-th is solved by the digits below i modulo 11."""
    prompts = [[{"role": "user", "content": str(i)}] for i in range(n)]
    return Dataset.from_dict(
        {"prompt": prompts, "prompt_id": list(range(n)), "solved": [i % 11 for i in range(n)]} | more
    )


def reward(completions, solved, **_):
    return [float(int(text[0]["content"]) < below) for text, below in zip(completions, solved, strict=True)]


def sometimes_none(completions, solved, **_):
    """Reward that cannot score a completion of 0 or 1."""
    marks = reward(completions, solved)
    return [None if text[0]["content"] in "01" else mark for text, mark in zip(completions, marks, strict=True)]


def doubled(completions, solved, **_):
    return [2.0 * mark for mark in reward(completions, solved)]


class Digits:
    """A policy of random digits; completions of 9 train nothing, those of 8 make two training rows."""

    delay = staticmethod(lambda prompt: random.random() * 0.002)

    async def _generate_one(self, prompt, tool_dict, tools, group_id=0):
        await asyncio.sleep(self.delay(prompt))
        digit = random.randrange(10)
        return [{"role": "assistant", "content": str(digit)}], _row(digit).input_ids[1:], _rows(digit), 0, 0, None


def _row(digit):
    return TrainingSequence([3, 2 + digit, 1], [0, 1, 1], [0.0, -2.3, -0.1], "")


def _rows(digit):
    return {9: [], 8: [_row(digit), _row(digit)]}.get(digit, [_row(digit)])


class Loop(Digits, AllocatedRolloutLoop):
    """The allocated loop, with the stand-in."""


class StockLoop(Digits, _AsyncRolloutLoop):
    """TRL's loop, with the stand-in."""


def group(row, digits, number):
    """Return the rollouts of a row that gave these digits."""
    return RolloutGroup(
        prompts=[row["prompt"]] * len(digits),
        reward_kwargs={key: [row[key]] * len(digits) for key in row if key != "prompt"},
        completions=[[{"role": "assistant", "content": str(digit)}] for digit in digits],
        completions_ids=[_row(digit).input_ids[1:] for digit in digits],
        completions_sequences=[_rows(digit) for digit in digits],
        tool_call_counts=[0] * len(digits), tool_failure_counts=[0] * len(digits), model_version=0, group_id=number,
        env_rewards=[None] * len(digits), rollout_rewards=[None] * len(digits),
    )  # fmt: skip


def loop(rounds, out=None, *, loop=Loop, rewards=reward, advantages="posterior", rows=None, **settings):
    """Return a loop that runs in this process; ``rounds`` None is TRL's own."""
    PartialState()
    context = multiprocessing.get_context("spawn")
    own = {} if rounds is None else {"rounds": rounds, "id_column": "prompt_id", "advantages": advantages}
    return loop(
        **own, **{"num_generations": 4, "max_inflight_tasks": 8} | settings, model_name="",
        dataset=dataset() if rows is None else rows, reward_funcs=[rewards], processing_class=tokenizer(),
        eos_token_ids=[1], rollout_buffer=queue.Queue() if out is None else out,
        model_version_value=context.Value("i", 0), heartbeat_value=context.Value("d", 0.0), failed_event=context.Event(),
        exception_info_queue=queue.Queue(1), metrics_queue=queue.Queue(4096),
    )  # fmt: skip


def run_loop(allocator, total, samples, *, in_flight=None, **settings):
    """Run a loop until so many samples are taken; return it, the samples, their events and later ones."""
    out, got, events = queue.Queue(), [], []
    built = loop(Rounds(allocator, total, in_flight=in_flight), out, **settings)

    def drain():
        while len(got) < samples:
            try:
                sample = out.get(timeout=120)  # the first one waits for the compiler
            except queue.Empty:
                break
            got.append(sample)
            events.extend(sample.metrics.pop(EVENTS, ()))
            built._model_version_value.value = len(got) // 8  # a step of 8 samples
        built._loop.call_soon_threadsafe(built._stop_event.set)

    thread = threading.Thread(target=drain, daemon=True)
    thread.start()
    built.run()
    thread.join()
    later = [sample.metrics.pop(EVENTS, ()) for sample in out.queue] + [built._events]
    return built, got, events, [event for part in later for event in part]


def replay(rounds, events):
    """Do again what a loop's allocator did."""
    for event in events:
        if event is DEAL:
            rounds.deal()
        else:
            rounds.learn(*event)
    return rounds.dealer.allocator


# ---------------------------------------------------------------- the trainer


def _attention(query, key, value, starts_q, starts_k, *_, softmax_scale=None, **__):
    """Causal attention of each segment to its path, what FlashAttention's kernel does on a GPU."""
    out = []
    for q0, q1, k0, k1 in zip(starts_q, starts_q[1:], starts_k, starts_k[1:], strict=False):
        q, k, v = query[q0:q1].transpose(0, 1), key[k0:k1].transpose(0, 1), value[k0:k1].transpose(0, 1)
        allowed = torch.ones(q1 - q0, k1 - k0, dtype=torch.bool).tril(int(k1 - k0 - (q1 - q0)))
        attend = torch.nn.functional.scaled_dot_product_attention
        out.append(attend(q, k, v, attn_mask=allowed, scale=softmax_scale, enable_gqa=True).transpose(0, 1))
    return torch.cat(out)


class NoTransfer:
    """Weights that nobody needs: the policy is random."""

    def _nothing(self, *_):
        pass

    init_weight_transfer = pause = resume = destroy = _nothing

    def send_weights(self, iterator):
        for _ in iterator:
            pass


@contextmanager
def without_gpu():
    """Replace the attention kernel and the look-up of the GPU's speed, and say that vLLM is installed: nothing calls it."""
    kernel = types.SimpleNamespace(flash_attn_varlen_func=_attention)
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(async_grpo_trainer, "get_peak_flops_per_device", return_value=None))
        stack.enter_context(mock.patch.object(packing, "_flash_attn", return_value=kernel))
        stack.enter_context(mock.patch.object(async_rollout_worker, "is_vllm_available", return_value=True))
        yield


def config(folder, **more):
    plain = {
        "output_dir": str(folder), "max_steps": 6, "per_device_train_batch_size": 8, "num_generations": 4, "bf16": False,
        "use_cpu": True, "report_to": "none", "token_budget": 0, "queue_maxsize": 16, "max_staleness": 100,
        "max_inflight_tasks": 8, "gradient_checkpointing": False, "save_strategy": "no", "disable_tqdm": True,
        "learning_rate": 1e-3,
    }  # fmt: skip
    return AsyncGRPOConfig(**plain | more)


def model_folder(folder):
    """Save a tiny Llama and return its folder."""
    set_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    LlamaForCausalLM(LlamaConfig(vocab_size=12, num_key_value_heads=2, **shape, **special)).save_pretrained(
        folder / "model"
    )
    return str(folder / "model")


def worker(args, rows, rewards, loop=Loop, **more):
    """Return TRL's rollout worker, whose process runs the stand-in loop."""
    built = AsyncRolloutWorker(
        model_name="", dataset=rows, reward_funcs=[rewards], processing_class=tokenizer(), eos_token_ids=[1],
        num_generations=args.num_generations, max_inflight_tasks=args.max_inflight_tasks,
        queue_maxsize=args.queue_maxsize, **more,
    )  # fmt: skip
    built._loop_cls = loop
    return built


def build(folder, allocator, args, *, rows=None, rewards=reward, loop=Loop, callbacks=None, **own):
    rows = dataset() if rows is None else rows
    common = {
        "model": model_folder(folder), "reward_funcs": rewards, "args": args, "train_dataset": rows,
        "processing_class": tokenizer(), "weight_transfer": NoTransfer(), "callbacks": callbacks,
    }  # fmt: skip
    if loop is not None:
        common["rollout_worker"] = worker(args, rows, rewards, loop)
    if allocator is None:
        return AsyncGRPOTrainer(**common)
    return AllocatedAsyncGRPOTrainer(**common, allocator=allocator, **own)


class StopAt(TrainerCallback):
    """Ends training after a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = state.global_step >= self.step


class AtStart(TrainerCallback):
    """Notes the allocator's balance when training begins."""

    def __init__(self, allocator):
        self.allocator, self.balances = allocator, []

    def on_train_begin(self, args, state, control, **_):
        self.balances.append(self.allocator.balance)
