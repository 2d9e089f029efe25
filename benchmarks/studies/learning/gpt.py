"""Small GPTs, several at a time: every parameter has a leading axis of independent replicas.

Training one tiny model leaves a machine waiting for its own overhead; sixty side by side do not. The rollouts of a group
share their prompt, so the prompt is read once: :meth:`Replicas.read` keeps its keys and values, :meth:`Replicas.answer`
goes on from them.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from studies.learning.tasks import BLANK, STOP, SYMBOLS

Cache = list[tuple[Tensor, Tensor]]  # keys and values per layer, each (replicas * rows, heads, tokens, width)


class Replicas:
    """``len(seeds)`` GPTs of one shape.

    Parameters
    ----------
    seeds : iterable of int
        One model each; equal seeds give equal models.
    width, layers, heads : int
        Of the residual stream; blocks; attention heads.
    context : int
        Longest prompt and answer, in tokens.
    device : str
        As PyTorch names it.
    """

    def __init__(
        self, seeds: Iterable[int], *, width: int, layers: int, heads: int, context: int, device: str = "cpu"
    ) -> None:
        self.layers, self.heads, self.device = layers, heads, device
        drawn = [_parameters(seed, width, layers, context) for seed in seeds]
        self.parameters = {name: torch.stack([one[name] for one in drawn]).to(device) for name in drawn[0]}
        for parameter in self.parameters.values():
            parameter.requires_grad_()

    @property
    def size(self) -> int:
        """Parameters of one model."""
        return sum(parameter[0].numel() for parameter in self.parameters.values())

    def state(self, replica: int) -> dict[str, Tensor]:
        """Return a copy of one model's parameters, on the CPU."""
        return {name: parameter[replica].detach().cpu().clone() for name, parameter in self.parameters.items()}

    def load(self, states: list[dict[str, Tensor]]) -> None:
        """Load the parameters of one model per replica."""
        self.parameters = {
            name: torch.stack([state[name] for state in states]).to(self.device).requires_grad_() for name in states[0]
        }

    def read(self, prompts: Tensor) -> Cache:
        """Return the keys and values that answers to prompts attend to; prompts (replicas, rows, tokens), without the last token."""
        cache: Cache = []
        self._run(prompts, None, cache)
        return cache

    def answer(self, tokens: Tensor, cache: Cache, extended: Cache | None = None) -> Tensor:
        """Return logits (replicas, rows, tokens, symbols) after each of these tokens, which follow the cache's.

        ``extended`` collects the cache with these tokens in it.
        """
        return self._run(tokens, cache, extended)

    def _run(self, tokens: Tensor, before: Cache | None, after: Cache | None) -> Tensor:
        """Run all blocks; ``before`` is what is attended to in addition, ``after`` collects keys and values."""
        p, (replicas, rows, length) = self.parameters, tokens.shape
        start = 0 if before is None else before[0][0].shape[2]
        place = torch.arange(replicas, device=tokens.device)[:, None, None]
        x = p["embed"][place, tokens] + p["place"][:, None, start : start + length]
        x = x.reshape(replicas, rows * length, -1)
        width = x.shape[2]
        mask = None
        if start and length > 1:
            mask = torch.ones(length, start + length, dtype=torch.bool, device=tokens.device).tril(start)

        def heads(t: Tensor) -> Tensor:
            return t.reshape(replicas * rows, length, self.heads, -1).transpose(1, 2)

        for i in range(self.layers):
            h = _norm(x, p[f"{i}.norm1"])
            q, k, v = (heads(t) for t in torch.bmm(h, p[f"{i}.qkv"]).split(width, dim=2))
            if before is not None:
                k, v = torch.cat([before[i][0], k], dim=2), torch.cat([before[i][1], v], dim=2)
            if after is not None:
                after.append((k, v))
                if before is None and i == self.layers - 1:
                    return x  # the logits of a prompt are not needed
            causal = not start and length > 1
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
            x = x + torch.bmm(mixed.transpose(1, 2).reshape(replicas, rows * length, width), p[f"{i}.out"])
            h = torch.bmm(_norm(x, p[f"{i}.norm2"]), p[f"{i}.up"])
            x = x + torch.bmm(F.gelu(h), p[f"{i}.down"])
        logits = torch.bmm(_norm(x, p["norm"]), p["embed"].transpose(1, 2))
        return logits.reshape(replicas, rows, length, -1)


def share(cache: Cache, group: Tensor) -> Cache:
    """Return the cache of each rollout's prompt; ``group`` (replicas, rollouts) holds the prompt's row."""
    replicas = group.shape[0]
    rows = cache[0][0].shape[0] // replicas
    flat = (group + rows * torch.arange(replicas, device=group.device)[:, None]).reshape(-1)
    return [(k.index_select(0, flat), v.index_select(0, flat)) for k, v in cache]


@torch.no_grad()
def sample(model: Replicas, prompts: Tensor, group: Tensor, uniforms: Tensor) -> Tensor:
    """Draw answers at temperature 1.

    Parameters
    ----------
    model : Replicas
        The model that answers.
    prompts : Tensor of int64, shape (replicas, prompts, width)
        Each once.
    group : Tensor of int64, shape (replicas, rollouts)
        Row of each rollout's prompt.
    uniforms : Tensor, shape (replicas, rollouts, length)
        In [0, 1), one per token: the same ones give the same answers.

    Returns
    -------
    Tensor of int64, shape (replicas, rollouts, length)
        Blanks follow the full stop.
    """
    cache = share(model.read(prompts[:, :, :-1]), group)
    token = torch.gather(prompts[:, :, -1], 1, group)
    ended = torch.zeros_like(group, dtype=torch.bool)
    answer = []
    for t in range(uniforms.shape[2]):
        extended: Cache = []
        logits = model.answer(token[:, :, None], cache, extended)[:, :, 0]
        cache = extended
        below = torch.softmax(logits.float(), -1).cumsum(-1) <= uniforms[:, :, t, None]
        token = below.sum(-1).clamp_max(len(SYMBOLS) - 1).masked_fill(ended, BLANK)
        answer.append(token)
        ended = ended | (token == STOP)
    return torch.stack(answer, dim=2)


def log_likelihood(model: Replicas, prompts: Tensor, group: Tensor, answers: Tensor) -> Tensor:
    """Return log-probabilities of whole answers, (replicas, rollouts): the sum over their tokens up to the full stop.

    Shapes as in :func:`sample`. The exponential for the right answer is a prompt's exact success rate.
    """
    cache = share(model.read(prompts[:, :, :-1]), group)
    last = torch.gather(prompts[:, :, -1], 1, group)[:, :, None]
    logits = model.answer(torch.cat([last, answers[:, :, :-1]], dim=2), cache).float()
    chosen = torch.gather(torch.log_softmax(logits, -1), 3, answers[..., None]).squeeze(3)
    stops = answers == STOP
    return (chosen * (stops.cumsum(-1) - stops.long() == 0)).sum(-1)  # a blank drawn before the full stop counts


def _norm(x: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:]) * scale[:, None]


def _parameters(seed: int, width: int, layers: int, context: int) -> dict[str, Tensor]:
    """Draw one model."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float) -> Tensor:
        return scale * torch.randn(*shape, generator=rng)

    deep = width**-0.5 / (2 * layers) ** 0.5
    found = {
        "embed": normal(len(SYMBOLS), width, scale=0.02 * (768 / width) ** 0.5),
        "place": normal(context, width, scale=0.02 * (768 / width) ** 0.5),
        "norm": torch.ones(width),
    }
    for i in range(layers):
        found |= {
            f"{i}.norm1": torch.ones(width),
            f"{i}.norm2": torch.ones(width),
            f"{i}.qkv": normal(width, 3 * width, scale=width**-0.5),
            f"{i}.out": normal(width, width, scale=deep),
            f"{i}.up": normal(width, 4 * width, scale=width**-0.5),
            f"{i}.down": normal(4 * width, width, scale=deep / 2),
        }
    return found
