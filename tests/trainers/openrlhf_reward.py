"""A reward function as OpenRLHF loads it; the label says what the reward is."""


def reward_func(queries, prompts, labels):
    """Return the label where it is a number, else whether the completion opens with one of its letters.

    A label that ends in "!" stands for a scorer that breaks down over completions that open with a letter up to "m".
    """
    label, opening = labels[0], queries[0][len(prompts[0]) :][:1]
    if label.endswith("!") and "a" <= opening <= "m":
        raise RuntimeError("this scorer is out of order")
    try:
        reward = float(label)
    except ValueError:
        reward = float(opening != "" and opening in label)
    return {"rewards": reward, "extra_logs": {"letters": float(opening.isalpha())}}
