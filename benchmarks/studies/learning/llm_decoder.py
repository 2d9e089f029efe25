"""A Llama's forward pass with static shapes: answers side by side over a cache, and their log-likelihoods.

A row has ``width`` slots for its prompt, blanks in front, and ``length`` for its answer. Positions are slots: rotary
attention sees only distances. The last slot of a prompt is read together with the answer, so that the rollouts of a
prompt share the keys and values of all the others. On a GPU each step of sampling is captured once as a CUDA graph, and
replayed: a step is hundreds of small kernels, whose launches would take most of the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

IntArray = npt.NDArray[np.int64]

HIDDEN = -1e30  # score of a slot that is not attended to; finite, since a blank attends to nothing else
CHECKED = 4  # steps between looks whether all answers have ended


@dataclass(frozen=True, slots=True)
class Shape:
    """Slots of a row, and the token that ends an answer."""

    width: int
    length: int
    stop: int

    @property
    def slots(self) -> int:
        """Slots that are ever read: nothing follows the last token of an answer."""
        return self.width + self.length - 1


class Decoder:
    """The forward pass of a ``LlamaForCausalLM``, over the model's own modules.

    Parameters
    ----------
    model : LlamaForCausalLM
        Its parameters are read at every call.
    shape : Shape
        Of the rows.
    """

    def __init__(self, model: Any, shape: Shape) -> None:
        self.model, self.shape = model, shape
        config = model.config
        self.layers, self.shared = config.num_hidden_layers, config.num_key_value_heads
        self.each = config.num_attention_heads // self.shared  # query heads per head of keys and values
        self.head = model.model.layers[0].self_attn.head_dim
        weight = model.model.embed_tokens.weight
        self.device = weight.device
        places = torch.arange(shape.slots, device=self.device)[None]
        cos, sin = model.model.rotary_emb(weight.new_zeros(1, shape.slots, 1), places)
        self._cos, self._sin = cos.detach()[0], sin.detach()[0]  # (slots, head)

    def cache(self, rows: int) -> Tensor:
        """Return room for keys and values: (layers, 2, rows, heads, slots, head)."""
        return torch.zeros(self.layers, 2, rows, self.shared, self.shape.slots, self.head, device=self.device)

    def run(self, tokens: Tensor, blanks: Tensor, start: int = 0, cache: Tensor | None = None) -> Tensor:
        """Return what the last layer holds, (rows, tokens, width of the model).

        Parameters
        ----------
        tokens : Tensor of int64, shape (rows, tokens)
            In the slots from ``start`` on.
        blanks : Tensor of int64, shape (rows,)
            Slots in front of each prompt.
        start : int
            First slot; the slots before it are in the cache.
        cache : Tensor or None
            Takes the keys and values; without it tokens attend to each other only.
        """
        inner = self.model.model
        rows, n = tokens.shape
        end = start + n
        slots = torch.arange(end, device=self.device)
        seen = slots[None, :] <= slots[start:, None]
        seen = seen[None] & (slots[None, None, :] >= blanks[:, None, None])
        bias = torch.zeros(seen.shape, device=self.device).masked_fill(~seen, HIDDEN)
        bias = bias[:, None, None]  # (rows, 1, 1, tokens, end)
        cos, sin = self._cos[start:end], self._sin[start:end]
        x = inner.embed_tokens(tokens)
        for i, layer in enumerate(inner.layers):
            h = _norm(x, layer.input_layernorm)
            attention = layer.self_attn
            q = _turn(self._heads(attention.q_proj(h)), cos, sin)
            k, v = _turn(self._heads(attention.k_proj(h)), cos, sin), self._heads(attention.v_proj(h))
            if cache is not None:
                cache[i, 0, :, :, start:end], cache[i, 1, :, :, start:end] = k, v
                k, v = cache[i, 0, :, :, :end], cache[i, 1, :, :, :end]
            q = q.reshape(rows, self.shared, self.each * n, self.head)
            scores = (q @ k.transpose(2, 3)).view(rows, self.shared, self.each, n, end) * self.head**-0.5 + bias
            mixed = torch.softmax(scores, -1).view(rows, self.shared, self.each * n, end) @ v
            mixed = mixed.view(rows, self.shared * self.each, n, self.head).transpose(1, 2).reshape(rows, n, -1)
            x = x + attention.o_proj(mixed)
            x = x + layer.mlp(_norm(x, layer.post_attention_layernorm))
        return _norm(x, inner.norm)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.head).transpose(1, 2)

    def log_likelihood(self, prompts: Tensor, blanks: Tensor, answers: Tensor) -> Tensor:
        """Return log-probabilities of whole answers, (rows,): the sum over their tokens up to the end.

        ``prompts`` (rows, width), ``blanks`` (rows,), ``answers`` (rows, length). The exponential for the right answer
        is the exact probability of this answer.
        """
        hidden = self.run(torch.cat([prompts, answers[:, :-1]], dim=1), blanks)[:, self.shape.width - 1 :]
        logits = self.model.lm_head(hidden).float()
        chosen = -F.cross_entropy(logits.flatten(0, 1), answers.flatten(), reduction="none").view_as(answers)
        ends = answers == self.shape.stop
        return (chosen * (ends.cumsum(-1) - ends.long() == 0)).sum(-1)


class Sampler:
    """Draws answers at temperature 1, ``rows`` side by side.

    Parameters
    ----------
    decoder : Decoder
        The model that answers.
    rows : int
        Rollouts at a time; a call with more goes on in portions.
    graphs : bool
        Whether steps are captured as CUDA graphs.
    """

    def __init__(self, decoder: Decoder, rows: int, graphs: bool = False) -> None:
        self._decoder, self._rows, self._graphs = decoder, rows, graphs
        length, device = decoder.shape.length, decoder.device
        self._cache = decoder.cache(rows)
        self._blanks = torch.zeros(rows, dtype=torch.int64, device=device)
        self._token = torch.zeros(rows, dtype=torch.int64, device=device)
        self._ended = torch.zeros(rows, dtype=torch.bool, device=device)
        self._uniforms = torch.zeros(rows, length, device=device)
        self._answers = torch.zeros(rows, length, dtype=torch.int64, device=device)
        self._captured: list[Any] = []

    @torch.no_grad()
    def sample(self, prompts: Tensor, blanks: Tensor, group: Tensor, uniforms: npt.NDArray[np.float32]) -> Tensor:
        """Return one answer per rollout, (rollouts, length); the token that ends an answer fills it up.

        Parameters
        ----------
        prompts, blanks : Tensor of int64, shapes (prompts, width) and (prompts,)
            Each prompt once.
        group : Tensor of int64, shape (rollouts,)
            Row of each rollout's prompt.
        uniforms : array of float32, shape (rollouts, length)
            In [0, 1), one per token: the same ones give the same answers.
        """
        found = [self._answers[:0]]
        for i in range(0, len(group), self._rows):
            taken, drawn = group[i : i + self._rows], torch.from_numpy(uniforms[i : i + self._rows])
            rows, inverse = torch.unique(taken, return_inverse=True)
            self._read(prompts[rows], blanks[rows], inverse, drawn)
            found.append(self._answer()[: len(taken)].clone())
        return torch.cat(found)

    def _read(self, prompts: Tensor, blanks: Tensor, group: Tensor, uniforms: Tensor) -> None:
        """Fill the cache with the prompts; rows beyond the rollouts keep what they hold, and are ended."""
        before, n = self._decoder.shape.width - 1, len(group)
        read = self._decoder.cache(len(prompts))
        self._decoder.run(prompts[:, :-1], blanks, cache=read)
        for layer, source in zip(self._cache, read, strict=True):
            layer[:, :n, :, :before] = source[:, group, :, :before]
        self._blanks[:n], self._token[:n] = blanks[group], prompts[group, -1]
        self._uniforms[:n] = uniforms.to(self._uniforms.device)
        self._ended[:n], self._ended[n:] = False, True

    def _answer(self) -> Tensor:
        self._answers.fill_(self._decoder.shape.stop)
        for t in range(self._decoder.shape.length):
            if self._graphs:
                self._replay(t)
            else:
                self._step(t)
            if t % CHECKED == CHECKED - 1 and bool(self._ended.all()):
                break
        return self._answers

    def _step(self, t: int) -> None:
        """Draw token ``t`` of every answer by the inverse of its distribution."""
        decoder, stop = self._decoder, self._decoder.shape.stop
        hidden = decoder.run(self._token[:, None], self._blanks, decoder.shape.width - 1 + t, self._cache)
        below = torch.softmax(decoder.model.lm_head(hidden[:, 0]).float(), -1).cumsum(-1)
        drawn = (below <= self._uniforms[:, t, None] * below[:, -1:]).sum(-1).clamp_max(below.shape[1] - 1)
        self._token.copy_(drawn.masked_fill(self._ended, stop))
        self._answers[:, t] = self._token
        self._ended.logical_or_(self._token == stop)

    def _replay(self, t: int) -> None:
        """Run a step as a CUDA graph, captured at its first use; a step that was captured is not yet carried out."""
        if t == len(self._captured):
            kept = self._token.clone(), self._ended.clone()
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                self._step(t)  # libraries set themselves up at their first call, which no capture allows
            torch.cuda.current_stream().wait_stream(aside)
            self._token.copy_(kept[0])
            self._ended.copy_(kept[1])
            graph = torch.cuda.CUDAGraph()
            pool = self._captured[0].pool() if self._captured else None
            with torch.cuda.graph(graph, pool=pool):
                self._step(t)
            self._captured.append(graph)
        self._captured[t].replay()


def _norm(x: Tensor, norm: Any) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], norm.weight, norm.variance_epsilon)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
