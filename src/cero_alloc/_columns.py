"""What trainers and tools call the columns of their logs."""

# The usual name first; compared without case.
NAMES = {
    "prompt_id": (
        *("prompt_id", "problem_id", "question_id", "task_id", "example_id", "task.key", "prompt", "prompt_tokens"),
        *("input", "query", "question", "problem", "messages", "index", "id"),
    ),
    "step": (
        *("step", "global_step", "global_steps", "training_step", "train_step", "iteration", "run.work.step", "round"),
        "epoch",
    ),
    "reward": (
        *("reward", "score", "rewards", "scores", "total_reward", "reward_score", "traces.rewards", "correct"),
        *("is_correct", "acc", "accuracy"),
    ),
    "successes": ("successes", "n_correct", "num_correct", "passed", "correct"),
    "trials": ("trials", "rollouts", "n_rollouts", "num_rollouts", "samples", "n_samples", "n"),
}
