"""Settings that the OpenRLHF adapter refuses, because they do not go together with it or its tests do not cover them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, get_args

from cero_alloc._checks import error_text
from cero_alloc.integrations._build import Mode
from cero_alloc.integrations._dealer import Advantages, check_advantages

ESTIMATORS = ("rloo", "reinforce_baseline", "group_norm", "dr_grpo")  # those that compare a prompt's rollouts


def refuse_unknown_modes(args: Any, mode: Mode, advantages: Advantages) -> None:
    """Raise ValueError for a mode or setting of OpenRLHF that the adapter's tests do not cover."""
    check_advantages(advantages)
    if mode not in get_args(Mode):
        raise ValueError(error_text("mode", f"be one of {list(get_args(Mode))}", mode, "Correct the spelling."))
    rollout, estimator, posterior = args.rollout, args.algo.advantage.estimator, advantages == "posterior"
    generated = rollout.vllm_generate_batch_size or rollout.batch_size
    penalties = args.reward.overlong_buffer_len is not None or args.reward.stop_properly_penalty_coef is not None
    for unknown, text in (
        (args.train.async_enable, "train.async_enable must be off: generation runs ahead of the feedback. Drop the flag."),
        (args.algo.dynamic_filtering_enable,
         "algo.dynamic_filtering_enable must be off: prompts drawn in place of others would be dealt rollouts that the "
         "batch does not have. Drop the flag."),
        (not posterior and rollout.n_samples_per_prompt < 2,
         f"rollout.n_samples_per_prompt must be at least 2, got {rollout.n_samples_per_prompt}: groups of one rollout have "
         "no baseline. Raise it, or take advantages='posterior'."),
        (not posterior and estimator not in ESTIMATORS,
         f"algo.advantage.estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}, which does not compare the "
         "rollouts of a prompt. Choose another."),
        (posterior and estimator == "gae",
         f"algo.advantage.estimator must be one of {', '.join(ESTIMATORS)}, got 'gae', whose critic is a baseline already. "
         "Choose another."),
        (posterior and penalties,
         "reward.overlong_buffer_len and reward.stop_properly_penalty_coef must be left out with advantages='posterior', "
         "which are of the reward as it was scored. Let the reward function subtract them, or take advantages='group'."),
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
            "Drop the repetitions (data.prompt_probs makes some), or add to each text what tells it apart; one question about "
            "several images needs that, too."
        )
