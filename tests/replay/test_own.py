"""Logs of an allocator: simulated runs whose pool is known are judged against what uniform gets there."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cero_alloc import training_allocator
from cero_alloc.__main__ import main
from cero_alloc.baselines import Uniform
from cero_alloc.replay import RolloutLog, against_uniform, read_log, verdict
from cero_alloc.simulation import Pool, simulate, static_pool

SIZE, ROUNDS = 300, 20


def run_of(file, pool, group, visits, rule="training", seed=0):
    """Return the log of a run with this many visits per prompt on average, in groups of this size."""
    total = int(pool.n_prompts * visits) // ROUNDS * ROUNDS * group
    run = {"total_budget": total, "n_rounds": ROUNDS, "rollouts_per_visit": group, "seed": seed}
    allocator = (
        training_allocator(pool.n_prompts, **run)
        if rule == "training"
        else Uniform(pool.bank(), max_rollouts=group, **run)
    )
    allocator.log_to(file)
    simulate(allocator, pool, ROUNDS, seed=seed)
    return read_log(file)


def truths(pool, log, group):
    """Return uniform's true variance and mixed share, and the true variance of the log's rollouts."""
    rates = pool.rates.ravel()
    values = rates * (1.0 - rates)
    rows = np.array(log.prompt_ids, dtype=int)[log.group_prompt]
    return (
        values.mean(),
        (1.0 - rates**group - (1.0 - rates) ** group).mean(),
        np.average(values[rows], weights=log.trials),
    )


# ---------------------------------------------------------------- coverage


@pytest.mark.slow
@pytest.mark.parametrize(("group", "visits"), [(8, 3), (8, 0.6), (4, 5), (1, 8)])
def test_intervals_hold_what_uniform_would_have_had(tmp_path, group, visits):
    """By simulation with known rates from several pools, for logs of training_allocator and of Uniform."""
    held, gains = {"training": [], "uniform": []}, {"training": [], "uniform": []}
    for rule in held:
        for seed in range(40):
            a, b = np.random.default_rng([7, seed]).uniform(0.3, 2.0, 2)
            pool = static_pool(SIZE, a, b, seed=seed)
            log = run_of(tmp_path / f"{rule}{seed}.jsonl", pool, group, visits, rule, seed)
            found = against_uniform(log, n_boot=200)
            variance, mixed, dealt = truths(pool, log, group)
            inside = [
                found.uniform_variance_interval[0] <= variance <= found.uniform_variance_interval[1],
                found.variance_interval[0] <= dealt <= found.variance_interval[1],
                found.ratio_interval[0] <= dealt / variance <= found.ratio_interval[1],
            ]
            if group > 1:
                inside.append(found.uniform_mixed_interval[0] <= mixed <= found.uniform_mixed_interval[1])
            held[rule].append(inside)
            gains[rule].append(found.gain)
    print(f"\ngroups of {group}, {visits} visits: share of the 95% intervals that hold the truth, and verdicts")
    print(f"{'':<10}{'uniform variance':>18}{'variance':>10}{'ratio':>8}{'uniform mixed':>15}   verdicts")
    for rule, inside in held.items():
        shares = "".join(f"{s:>{w}.0%}" for s, w in zip(np.mean(inside, axis=0), (18, 10, 8, 15), strict=False))
        counts = {gain: gains[rule].count(gain) for gain in sorted(set(gains[rule]))}
        print(f"{rule:<10}{shares:<51}   {counts}")
        assert (np.mean(inside, axis=0) >= 0.8).all()
    assert gains["uniform"].count("none seen") >= 38  # at most 2.5% of its logs on either side
    if visits >= 3:
        assert gains["training"].count("more") > gains["uniform"].count("more")
    assert "less" not in gains["training"]


def test_pools_that_no_beta_resembles_hide_gains_and_show_none_that_are_not(tmp_path):
    gains = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        pool = Pool(np.where(rng.random(SIZE) < 0.5, rng.choice([0.0, 1.0], SIZE), 0.5))
        for group, visits in ((8, 2), (1, 6)):
            log = run_of(tmp_path / f"{seed}-{group}.jsonl", pool, group, visits, "uniform", seed)
            gains.append(against_uniform(log, n_boot=200).gain)
    assert gains.count("more") == 0


# ---------------------------------------------------------------- what is said


@pytest.fixture(scope="module")
def pool():
    return static_pool(600, 0.3, 0.3, seed=1)


@pytest.fixture(scope="module")
def groups(pool, tmp_path_factory):
    return run_of(tmp_path_factory.mktemp("groups") / "run.jsonl", pool, 8, 6)


def test_figures_of_groups_are_those_of_the_log(groups):
    found = against_uniform(groups, n_boot=100)
    assert found.mixed == groups.trials[~groups.dead].sum() / groups.n_rollouts
    assert found.group == 8.0
    assert (found.pool, found.n_prompts, found.n_rollouts) == (600, groups.n_prompts, groups.n_rollouts)
    assert found.ratio == pytest.approx(found.variance / found.uniform_variance)
    low, high = (round(100 * end) for end in found.mixed_interval)
    less, more = (round(100 * end) for end in found.uniform_mixed_interval)
    assert verdict(groups).kind == "own"
    assert found.text == (
        f"Your allocator put {100 * found.mixed:.0f}% of its rollouts [{low}, {high}] in mixed groups; uniform would have had "
        f"{100 * found.uniform_mixed:.0f}% [{less}, {more}] with the same rollouts."
    )
    assert against_uniform(groups, n_boot=100) == found


def test_prompts_without_a_rollout_are_taken_from_the_prior(groups):
    a, b = against_uniform(groups, n_boot=10).prior
    larger = replace(groups, reading=replace(groups.reading, pool=10**9))
    found = against_uniform(larger, n_boot=10)
    assert found.uniform_variance == pytest.approx(a * b / ((a + b) * (a + b + 1.0)), rel=1e-4)


def test_a_gain_a_loss_and_neither(groups):
    found = against_uniform(groups, n_boot=20)
    worse = replace(found, mixed_interval=(0.1, 0.2))
    neither = replace(found, mixed_interval=(0.0, 1.0))
    assert worse.text.startswith("Worse than uniform: your allocator put")
    assert neither.text.startswith("No gain in mixed groups can be seen: your allocator put")
    single = {"mixed": np.nan, "ratio": 1.25, "variance": 0.2, "uniform_variance": 0.16}
    better = replace(found, **single, ratio_interval=(1.125, 1.5))
    assert better.text == (
        "Your allocator's rollouts had a reward variance of 1.25 times uniform's [1.12, 1.50], 0.200 against 0.160 with the "
        "same rollouts."
    )
    assert replace(better, ratio_interval=(0.9, 1.5)).gain == "none seen"
    assert replace(better, ratio_interval=(0.9, 0.95)).gain == "less"


def test_uniforms_own_log_shows_no_gain(pool, tmp_path):
    text = verdict(run_of(tmp_path / "run.jsonl", pool, 8, 6, "uniform")).text
    assert text.startswith("No gain in mixed groups can be seen: your allocator put")


def test_single_rollouts_are_compared_by_variance(pool, tmp_path, capsys):
    file = tmp_path / "run.jsonl"
    log = run_of(file, pool, 1, 8)
    found = against_uniform(log, n_boot=100)
    assert np.isnan(found.mixed)
    assert verdict(log).text.startswith("Your allocator's rollouts had a reward variance of 1.")
    assert log.reading.doubts == ()
    assert main(["replay", str(file), "--n-boot", "50"]) == 0
    printed = capsys.readouterr().out
    assert "single rollouts                      4,800   100.0%" in printed
    assert "dead: all rewards equal                  0     0.0%" in printed
    assert "warning" not in printed


def test_fractional_rewards_are_compared_by_variance(tmp_path):
    pool = Pool.of_levels([0.0, 0.5, 1.0], np.random.default_rng(0).dirichlet([0.3] * 3, 500))
    log = run_of(tmp_path / "run.jsonl", pool, 8, 6)
    found, values = against_uniform(log, n_boot=100), pool.values(0, ROUNDS)
    assert log.fractional
    assert np.isnan(found.mixed)
    assert found.uniform_variance == pytest.approx(values.mean(), rel=0.1)
    assert found.gain == "more"


@pytest.mark.parametrize(
    ("rates", "visits"),
    [(np.full(15, 0.5), 3), (np.zeros(60), 3), (np.ones(60), 3)],
    ids=["few prompts", "all wrong", "all right"],
)
def test_logs_that_cannot_tell(tmp_path, rates, visits):
    log = run_of(tmp_path / "run.jsonl", Pool(rates), 8, visits)
    found = against_uniform(log, n_boot=20)
    assert found.gain == "unknown"
    assert np.isnan(found.uniform_variance)
    assert verdict(log).text.startswith("Too small to say what uniform would have had: it takes 20 prompts")


@pytest.mark.parametrize("won", [[2], [0, 4]], ids=["alike", "decided"])
def test_prompts_without_spread_leave_nothing_to_gain(tmp_path, won):
    head = {"cero_alloc": "1", "allocator": "Some", "prompts": 100, "round": 0}
    rows = [{"prompt_id": i, "step": 1, "trials": 4, "successes": won[i % len(won)]} for i in range(100)]
    file = tmp_path / "run.jsonl"
    file.write_text("\n".join(map(json.dumps, [head, *rows])))
    found = against_uniform(read_log(file), n_boot=50)
    assert sum(found.prior) == pytest.approx(1000.0)
    assert found.uniform_variance == pytest.approx(0.25, rel=0.01)
    assert (found.mixed, found.uniform_mixed) == (len(won) % 2, pytest.approx(0.875, rel=0.01))


# ---------------------------------------------------------------- reading


def test_the_header_is_no_line_and_tells_the_pool(tmp_path):
    head = {"cero_alloc": "9.9", "allocator": "Some", "prompts": 7, "round": 0}
    rows = [{"prompt_id": "a", "step": 1, "trials": 4, "successes": 1}] * 2
    file = tmp_path / "run.jsonl"
    file.write_text("\n".join(map(json.dumps, [head, *rows])))
    log = read_log(file)
    assert (log.n_lines, log.n_bad, log.n_rollouts) == (2, 0, 8)
    assert (log.reading.format, log.reading.dealt_by, log.reading.pool) == ("cero-alloc", "Some", 7)
    assert log.trials.tolist() == [8]  # one prompt in one step
    assert "squares" not in log.reading.columns
    file.write_text("\n".join(map(json.dumps, [head | {"prompts": "7"}, *rows])))
    assert read_log(file).reading.dealt_by == ""  # not a header of ours
    messages = []
    for headers in (1, 2):  # of runs that ended before their first round
        file.write_text((json.dumps(head) + "\n") * headers)
        with pytest.raises(ValueError, match="must hold outcomes, got none yet") as caught:
            read_log(file)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize(
    "wrong",
    [{"squares": 2.0}, {"squares": -1.0}, {"successes": 5}, {"trials": 0}, {"trials": 2.5}, {"successes": "NaN"}],
)
def test_sums_that_no_rewards_have_are_bad_lines(tmp_path, wrong):
    good = {"prompt_id": "a", "step": 1, "trials": 4, "successes": 1.5, "squares": 0.75}
    rows = [{"cero_alloc": "1", "allocator": "Some", "prompts": 7, "round": 0}, good, good | wrong]
    file = tmp_path / "run.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    log = read_log(file)
    assert (log.n_bad, log.n_rollouts) == (1, 4)
    assert log.squares == pytest.approx([0.75])


def test_groups_are_read_as_sums_whatever_the_rewards(tmp_path):
    rng = np.random.default_rng(0)
    rewards = [rng.choice([0, 0.25, 0.5, 1], n) for n in rng.integers(1, 9, 300)]
    rewards += [rng.random(n) for n in rng.integers(1, 9, 300)] + [np.full(n, 0.3) for n in range(1, 9)]
    head = {"cero_alloc": "1", "allocator": "Some", "prompts": 7, "round": 0}
    rows = [
        {"prompt_id": i, "step": 1, "trials": r.size, "successes": r.sum(), "squares": (r**2).sum()}
        for i, r in enumerate(rewards)
    ]
    file = tmp_path / "run.jsonl"
    file.write_text("\n".join(map(json.dumps, [head, *rows])))
    log = read_log(file)
    assert log.n_bad == 0
    assert log.successes == pytest.approx([r.sum() for r in rewards], abs=1e-5)
    assert log.squares == pytest.approx([(r**2).sum() for r in rewards], abs=1e-5)
    assert log.dead.tolist() == [bool(np.ptp(r) < 1e-12) for r in rewards]
    assert log.trials.tolist() == [r.size for r in rewards]


# ---------------------------------------------------------------- the report


def test_the_report_compares_in_place_of_replays(groups, pool, tmp_path, capsys):
    file = tmp_path / "run.jsonl"
    run_of(file, pool, 8, 6)
    assert main(["replay", str(file), "--n-boot", "100", "--json", str(tmp_path / "x.json")]) == 0
    printed, data = capsys.readouterr().out, json.loads((tmp_path / "x.json").read_text())
    assert printed.startswith("Your allocator put ")
    assert "cero-alloc, dealt by ResolvingAllocator from a pool of 600 prompts" in printed
    assert "AGAINST UNIFORM" in printed
    assert "MIXED GROUPS OF EACH POLICY" not in printed
    assert "warning" not in printed
    assert data["verdict_kind"] == "own"
    assert data["own"]["gain"] == "more"
    assert data["own"]["mixed"] == pytest.approx(against_uniform(groups, n_boot=10).mixed)
    assert "policies" not in data


def test_the_report_says_how_many_prompts_never_got_a_rollout(pool, tmp_path, capsys):
    file = tmp_path / "run.jsonl"
    log = run_of(file, pool, 8, 0.5)
    assert main(["replay", str(file), "--n-boot", "50"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"{600 - log.n_prompts:,} of them never got a rollout and are taken from that prior" in printed


def test_other_logs_are_refused(groups):
    other = replace(groups, reading=replace(groups.reading, dealt_by="", format="jsonl"))
    with pytest.raises(ValueError, match=r"log must be written by an allocator, got log = 'jsonl'\. Call log_to"):
        against_uniform(other)
    with pytest.raises(TypeError, match="log must be a RolloutLog"):
        against_uniform("run.jsonl")
    with pytest.raises(ValueError, match="n_boot must be at least 2"):
        against_uniform(groups, n_boot=1)
    assert isinstance(other, RolloutLog)
