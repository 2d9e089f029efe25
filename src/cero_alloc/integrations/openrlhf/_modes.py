"""Settings that the OpenRLHF adapter refuses, because its tests do not cover them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ._advantages import ESTIMATORS


def refuse_unknown_modes(args: Any) -> None:
    """Raise ValueError for a mode or setting of OpenRLHF that the adapter's tests do not cover."""
    rollout, estimator = args.rollout, args.algo.advantage.estimator
    generated = rollout.vllm_generate_batch_size or rollout.batch_size
    for unknown, text in (
        (args.train.async_enable, "train.async_enable must be off: generation runs ahead of the feedback. Drop the flag."),
        (args.algo.dynamic_filtering_enable,
         "algo.dynamic_filtering_enable must be off: prompts drawn in place of others would be dealt rollouts that the "
         "batch does not have. Drop the flag."),
        (rollout.n_samples_per_prompt < 2,
         f"rollout.n_samples_per_prompt must be at least 2, got {rollout.n_samples_per_prompt}: groups of one rollout have "
         "no baseline. Raise it."),
        (estimator not in ESTIMATORS,
         f"algo.advantage.estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}, which does not compare the "
         "rollouts of a prompt. Choose another."),
        (generated != rollout.batch_size,
         f"rollout.vllm_generate_batch_size must be rollout.batch_size = {rollout.batch_size}, got {generated}: a batch cut "
         "elsewhere would split groups. Leave it out."),
    ):  # fmt: skip
        if unknown:
            raise ValueError(text)


def refuse_repeated_prompts(prompts: Sequence[str]) -> None:
    """Raise ValueError for a data set in which one text stands for several prompts."""
    text, times = Counter(prompts).most_common(1)[0]
    if times > 1:
        raise ValueError(
            f"prompts must be distinct texts, the only id that OpenRLHF keeps, got {times} times {text[:80]!r}. "
            "Drop the repetitions (data.prompt_probs makes some), or add to each text what tells it apart."
        )
