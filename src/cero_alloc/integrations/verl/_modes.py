"""Settings that the verl adapter refuses, because they do not go together with it or its tests do not cover them."""

from __future__ import annotations

from typing import Any, NamedTuple, get_args

from omegaconf import DictConfig, OmegaConf

from cero_alloc._checks import error_text
from cero_alloc.integrations._build import Mode
from cero_alloc.integrations._dealer import Advantages

# Those that compare the rollouts of a prompt, however many there are; grpo_passk means another k where they differ.
ESTIMATORS = ("grpo", "grpo_vectorized", "rloo", "rloo_vectorized", "reinforce_plus_plus_baseline", "opo")


class Settings(NamedTuple):
    """The adapter's own settings, ``cero_alloc`` in verl's configuration."""

    mode: Mode = "select"
    advantages: Advantages = "posterior"
    id_column: str = "index"
    group_weighting: str = "rollout"
    settings: dict[str, Any] = {}  # noqa: RUF012 (never changed)

    @classmethod
    def of(cls, config: DictConfig) -> Settings:
        """Return the settings of a run, or raise ValueError for an unknown one; the message says what to do."""
        given = config.get("cero_alloc") or {}
        own: dict[str, Any] = OmegaConf.to_container(given) if isinstance(given, DictConfig) else dict(given)
        odd = next((name for name in own if name not in cls._fields), None)
        if odd is not None:
            condition, remedy = f"have keys of {', '.join(cls._fields)}", "Correct the spelling."
            raise ValueError(error_text("cero_alloc", condition, odd, remedy))
        found = cls(**own)
        for name, choices in {
            "mode": get_args(Mode), "advantages": get_args(Advantages), "group_weighting": ("rollout", "prompt"),
        }.items():  # fmt: skip
            value = getattr(found, name)
            if value not in choices:
                condition = "be " + " or ".join(map(repr, choices))
                raise ValueError(error_text(f"cero_alloc.{name}", condition, value, "Correct it."))
        if found.advantages == "posterior" and found.group_weighting != "rollout":
            condition = "be 'rollout' with cero_alloc.advantages = 'posterior', where a rollout has no group"
            remedy = "Leave it out, or set +cero_alloc.advantages=group."
            raise ValueError(error_text("cero_alloc.group_weighting", condition, found.group_weighting, remedy))
        return found


def refuse_unknown_modes(config: DictConfig, advantages: Advantages) -> None:
    """Raise ValueError for a setting of verl that the adapter's tests do not cover; it says what to do."""

    def get(key: str, default: Any = None) -> Any:
        return OmegaConf.select(config, key, default=default)

    estimator, rollouts = get("algorithm.adv_estimator"), get("actor_rollout_ref.rollout.n")
    batch, fetched = get("data.train_batch_size"), get("data.gen_batch_size")
    synchronous = get("trainer.v1.trainer_mode") == "sync"
    for unknown, text in (
        (synchronous and get("trainer.v1.sync.parameter_sync_step", 1) != 1,
         "trainer.v1.sync.parameter_sync_step must be 1: a batch that is trained in parts would be waited for in "
         "vain. Leave it out."),
        (get("algorithm.filter_groups.enable", False),
         "algorithm.filter_groups.enable must be False: prompts drawn in place of others would be dealt rollouts that "
         "the batch does not have, and a prompt without rollouts has nothing to be filtered by. Set it so."),
        (get("algorithm.rollout_correction.rollout_rs"),
         "algorithm.rollout_correction.rollout_rs must be null: verl keeps the rewards of rejected rollouts in their "
         "group's baseline, and the allocator would learn from them. Leave it out; rollout_is may stay."),
        (advantages == "posterior" and get("algorithm.use_kl_in_reward", False),
         "algorithm.use_kl_in_reward must be False with cero_alloc.advantages = 'posterior', whose advantages hold no KL. "
         "Set actor_rollout_ref.actor.use_kl_loss, or +cero_alloc.advantages=group."),
        (get("trainer.v1.sampler.sync_refill_failed_groups", False),
         "trainer.v1.sampler.sync_refill_failed_groups must be False: prompts drawn in place of others would be dealt "
         "rollouts that the batch does not have. Set it so."),
        (get("trainer.v1.sampler.custom_sampler.path"),
         "trainer.v1.sampler.custom_sampler.path must be null: a replay buffer of your own was not tested. Leave it out."),
        (get("skip.rollout_tq.enable", False),
         "skip.rollout_tq.enable must be False: rollouts read from a file are not those that were dealt. Set it so."),
        (advantages == "group" and rollouts < 2,
         f"actor_rollout_ref.rollout.n must be at least 2, got {rollouts}: a group of one rollout has no baseline, and "
         "verl takes its raw reward for the advantage. Raise it, or set +cero_alloc.advantages=posterior."),
        (estimator not in ESTIMATORS,
         f"algorithm.adv_estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}, which does not compare "
         "the rollouts of prompts that have unequally many, or has a critic for its baseline. Choose another."),
        (synchronous and fetched not in (None, batch),
         f"data.gen_batch_size must be data.train_batch_size = {batch}, got {fetched}: a batch put together over the "
         "end of an epoch may hold a prompt twice. Leave it out."),
    ):  # fmt: skip
        if unknown:
            raise ValueError(text)


def refuse_unequal_groups(allocator: Any, per_prompt: int) -> None:
    """Raise ValueError where an asynchronous step could not be as large as the stock trainer's."""
    least = max(allocator.horizon.unit_size, getattr(allocator, "min_rollouts", 1))
    most = allocator.horizon.max_rollouts
    if not least == most == per_prompt:
        raise ValueError(
            f"min_rollouts and max_rollouts must be actor_rollout_ref.rollout.n = {per_prompt} in an asynchronous mode with "
            f"cero_alloc.advantages = 'group', got {least} and {most}: verl trains groups as they are finished, so that a step "
            "of unequal ones has no fixed number of rollouts. Set +cero_alloc.advantages=posterior, or "
            "+cero_alloc.mode=select without an allocator of your own."
        )


def refuse_several_outputs(keys: list[str]) -> None:
    """Raise ValueError where a rollout has several outputs; verl's keys are row_rollout_output."""
    rollouts = {key.rsplit("_", 1)[0] for key in keys}
    if len(rollouts) < len(keys):
        raise ValueError(
            f"actor_rollout_ref.rollout.agent must give one output per rollout, got {len(keys)} of {len(rollouts)}: some of "
            "verl's estimators count each as a rollout of its own. Use an agent loop that returns one; it may call tools."
        )
