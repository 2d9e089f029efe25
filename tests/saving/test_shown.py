"""What objects show of themselves: one line, the same facts as a table, also before they are built to the end."""

import dataclasses
import re

import numpy as np
import pytest

import cero_alloc
from cero_alloc import (
    AllocationWarning,
    BetaPosteriorBank,
    FenchelDualAllocator,
    Horizon,
    OfflineOracle,
    ResolvingAllocator,
    SaturatingUtility,
    baselines,
    replay,
    sharding,
    simulation,
)
from cero_alloc._allocators.audit import Audit
from cero_alloc._evidence.prior import PriorFit
from cero_alloc._saving.shown import Shown, short
from cero_alloc.replay._report import ReplayReport
from cero_alloc.replay._settings import LearntSettings

RUN = {"total_budget": 64, "n_rounds": 4, "max_rollouts": 8}
HORIZON = Horizon(n_prompts=4, n_rounds=2, total_budget=8, max_rollouts=2, round_capacity=4)
UTILITY = "SaturatingUtility(shape='exponential', saturation=1.0, scaling='rate')"
EVEN = "prompts=4, round=1 of 4, dealt=16 of 64 rollouts"


def bank_of(ids=4):
    return BetaPosteriorBank(ids)


def begun(allocator):
    allocator.allocate(budget=16, exact=True)
    return allocator


def sharded():
    return sharding.ShardedAllocator([sharding.PoolShard(bank_of(2), HORIZON, at) for at in (0, 2)], HORIZON)


def simulated():
    pool = simulation.static_pool(4, seed=0)
    return simulation.simulate(baselines.Uniform(pool.bank(), **RUN), pool, 4)


def log():
    prompt, step = np.array([0, 0, 1, 1]), np.array([0.0, 0.0, 1.0, 1.0])
    return replay.RolloutLog.of_rows(("a", "b"), prompt, step, np.array([0.0, 1.0] * 2), np.array([4] * 4), n_lines=4)


SHOWN = {
    "bank": (bank_of, "BetaPosteriorBank(prompts=4, ids=int such as 0, rollouts=0, prior=(1, 1), forgetting=1)"),
    "bank of names": (
        lambda: BetaPosteriorBank(["<b>&", "y"], prior=([1, 2], 1), drift=0.1, trend=0.5, reward_range=(-1, 1)),
        "BetaPosteriorBank(prompts=2, ids=str such as '<b>&', rollouts=0, prior=per prompt, forgetting=1, drift=0.1, trend=0.5, "
        "reward_range=(-1, 1))",
    ),
    "Algorithm 1": (lambda: begun(FenchelDualAllocator(bank_of(), **RUN)), f"FenchelDualAllocator({EVEN})"),
    "re-solving": (
        lambda: begun(ResolvingAllocator(bank_of(), **RUN, order="spread", visits=[4, 4, 3, 3])),
        f"ResolvingAllocator({EVEN}, order='spread', visits=int64[4])",
    ),
    "by visits": (
        lambda: ResolvingAllocator(bank_of(), total_budget=64, visits=4, max_rollouts=8),
        "ResolvingAllocator(prompts=4, round=0, dealt=0 of 64 rollouts, order='best', visits=4)",
    ),
    "tokens": (
        lambda: ResolvingAllocator(bank_of(), total_budget=64.5, n_rounds=4, max_rollouts=8, costs=[1, 2, 3, 4]),
        "ResolvingAllocator(prompts=4, round=0 of 4, dealt=0.0 of 64.5 tokens, order='best')",
    ),
    **{
        rule.__name__: (lambda rule=rule: begun(rule(bank_of(), **RUN)), f"{rule.__name__}({EVEN})")
        for rule in (baselines.Uniform, baselines.FixedPacing, baselines.Greedy, baselines.VIP, baselines.GRESO)
    },
    "visits of a rule": (
        lambda: baselines.Uniform(bank_of(), **RUN, rollouts_per_visit=4),
        "Uniform(prompts=4, round=0 of 4, dealt=0 of 64 rollouts, rollouts_per_visit=4)",
    ),
    "shards": (sharded, "ShardedAllocator(prompts=4, shards=2, round=0 of 2, dealt=0 of 8 rollouts)"),
    "shard": (lambda: sharded().shards[1], "PoolShard(start=2, prompts=2, of=4, round=0 of 2)"),
    "utility": (SaturatingUtility, UTILITY),
    "oracle": (OfflineOracle, f"OfflineOracle(utility={UTILITY})"),
    "optimum": (
        lambda: OfflineOracle().solve([0.25, 0.0], 1, equal_share=1, upper=2, integer=True),
        "OracleResult(allocation=int64[2], price=0.0, optimum=0.632121, gap=0.0, status='slack')",
    ),
    "prior": (
        lambda: PriorFit(1 / 3, 0.5, 40, "fitted", 31.0),
        "PriorFit(alpha=0.333333, beta=0.5, n_prompts=40, status='fitted', log_likelihood_gain=31.0)",
    ),
    "belief": (
        lambda: cero_alloc.BeliefFit(0.4, 0.5, 0.003, 0.1, 80, 400, "fitted", 31.0),
        "BeliefFit(alpha=0.4, beta=0.5, drift=0.003, trend=0.1, n_prompts=80, n_predictions=400, status='fitted', "
        "log_likelihood_gain=31.0)",
    ),
    "against uniform": (
        lambda: replay.AgainstUniform(
            "Uniform",
            4,
            4,
            8,
            (1 / 3, 1.0),
            0.2,
            (0.1, 0.3),
            0.2,
            (0.1, 0.3),
            1.0,
            (0.9, 1.1),
            2.0,
            *[0.5, (0.4, 0.6)] * 2,
        ),
        "AgainstUniform(dealt_by='Uniform', pool=4, n_prompts=4, n_rollouts=8, prior=(0.3333333333333333, 1.0), variance=0.2",
    ),
    "audit": (
        lambda: Audit(64, {f"<q{i}>": 80 for i in range(1000)}, {}),
        "Audit(after=64, prompts={'<q0>': 80, '<q100>': 80, '<q101>': 80, '<q102>': 80, ...}, labels={})",
    ),
    "calibration": (
        lambda: bank_of().calibration(),
        "Calibration(n_groups=0, mixed_groups=0, bias=nan, standard_error=nan, warning=0.0)",
    ),
    "forgetting": (
        lambda: bank_of().select_forgetting([([0], [1], [2])] * 2, grid=[1.0, 0.5]),
        "ForgettingChoice(forgetting=1.0, grid=float64[2], log_likelihood=float64[2], n_predictions=1, status='selected')",
    ),
    "pool": (lambda: simulation.static_pool(4), "Pool(n_prompts=4, path='step', rates=float64[1 x 4], levels=None)"),
    "trained pool": (
        lambda: simulation.TrainedPool([0.5] * 3, gain=0.25),
        "TrainedPool(n_prompts=3, gain=0.25, transfer=0.1)",
    ),
    "log-linear pool": (
        lambda: simulation.LogLinearPool([[1.0, 2.0]], [0.0], [[1.0, 1.0]], [0.0]),
        "LogLinearPool(n_prompts=1, n_features=2, held_offsets=float64[1])",
    ),
    "simulation": (simulated, "SimulationResult(n_prompts=4, n_rounds=4, group_rollouts=int64["),
    "curve": (
        lambda: simulation.RegretCurve([16, 64], [[0.04, 0.02]]),
        "RegretCurve(rounds=int64[2], regret=float64[1 x 2], bound=float64[1 x 2])",
    ),
    "learning": (
        lambda: simulation.LearningResult(*[np.zeros(2)] * 3, np.zeros(1), np.zeros(3), np.zeros(5)),
        "LearningResult(rollouts=float64[2], held_out=float64[2], trained=float64[2], signal=float64[1], "
        "exposure=float64[3], weights=float64[5])",
    ),
    "log": (log, "RolloutLog(n_prompts=2, n_steps=2, n_lines=4, n_bad=0)"),
    "replay": (
        lambda: replay.replay(log(), {}, n_boot=10),
        "ReplayResult(policies=1, first='Uniform', offer='batch', budget=1.0, max_rollouts=32, n_boot=10)",
    ),
    "report": (
        lambda: ReplayReport("<log>", log(), None),
        "ReplayReport(name='<log>', log=RolloutLog(n_prompts=2, n_steps=2, n_lines=4, n_bad=0), result=None)",
    ),
    "settings": (lambda: LearntSettings(None, None, None, None), "LearntSettings(prior_fit=None, forgetting=None)"),
}


@pytest.mark.parametrize("name", SHOWN)
def test_one_line_and_the_same_as_a_table(name):
    make, line = SHOWN[name]
    shown = make()
    assert repr(shown).startswith(line)
    assert "\n" not in repr(shown)
    html = shown._repr_html_()
    text = (
        re.sub(r"<[^>]*>", "", html)
        .replace("&#x27;", "'")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&")
    )
    assert text == type(shown).__name__ + "".join(f"{name}{value}" for name, value in shown._facts())
    assert set(re.findall(r"</?(\w+)", html)) == {
        "table",
        "caption",
        "b",
        "tbody",
        "tr",
        "th",
        "td",
    }  # all else is escaped
    assert not re.search(r"#[0-9a-f]{3}|rgb", re.sub("&#x27;", "", html))  # the page's own colours


def public():
    """All public classes that show themselves, and those that do not."""
    for module in (cero_alloc, baselines, sharding, simulation, replay):
        for name in module.__all__:
            if isinstance(getattr(module, name), type):
                yield getattr(module, name)


SHOW = sorted({kind for kind in public() if issubclass(kind, Shown)}, key=lambda kind: kind.__name__)


def test_every_public_class_shows_itself_or_holds_few_scalars():
    others = [kind for kind in set(public()) - set(SHOW) if not issubclass(kind, (tuple, Warning))]
    plain = [kind for kind in others if dataclasses.is_dataclass(kind)]
    assert {kind.__name__ for kind in others if kind not in plain} <= {"Policy"}
    assert [kind.__name__ for kind in plain if "NDArray" in str([f.type for f in dataclasses.fields(kind)])] == []
    names = {type(make()).__name__ for make, _ in SHOWN.values()}
    assert {kind.__name__ for kind in SHOW if not issubclass(kind, baselines.Baseline)} <= names


@pytest.mark.parametrize("kind", SHOW, ids=lambda kind: kind.__name__)
def test_half_built_objects_show_what_they_have(kind):
    shown = object.__new__(kind)
    assert repr(shown) == f"{kind.__name__}(incomplete=True)"
    assert "incomplete" in shown._repr_html_()


def test_half_built_objects_show_their_first_facts():
    class Broken(Shown):
        def _facts(self):
            yield "first", "1"
            raise RuntimeError("not built")

    assert repr(Broken()) == "Broken(first=1, incomplete=True)"


class Unshowable:
    def __repr__(self):
        raise RuntimeError("no")


def test_ids_of_any_kind_are_shown_in_short():
    with pytest.warns(AllocationWarning, match="<Unshowable instance at"):
        bank = BetaPosteriorBank([Unshowable()])
    assert "<Unshowable instance at" in repr(bank)
    assert len(repr(BetaPosteriorBank(["x" * 10_000]))) < 160
    assert "\n" not in repr(BetaPosteriorBank([("a\nb", 1)]))
    assert "ids=tuple such as ('math', 7)" in repr(BetaPosteriorBank([("math", 7)]))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.zeros((2, 3)), "float64[2 x 3]"), (np.int64(3), "3"), (0.1 + 0.2, "0.3"), (1.0, "1.0"), (1 / 3, "0.333333"),
        (float("nan"), "nan"), (None, "None"), ("x", "'x'"),
    ],
)  # fmt: skip
def test_short(value, text):
    assert short(value) == text


def test_the_count_of_rollouts_is_saved_and_merged():
    bank = bank_of(["a", "b"])
    bank.update(["a"], [1], [3])
    bank.observe(["b", "b", "a"], [1, 0, None])
    fresh = bank_of(["a", "b"])
    fresh.load_state_dict(bank.state_dict())
    assert repr(fresh) == repr(bank)
    assert "rollouts=5," in repr(bank)
    fresh.merge(bank)
    assert "rollouts=10," in repr(fresh)
    older = bank.state_dict()
    del older["record"]["rollouts"]
    fresh.load_state_dict(older)
    assert "rollouts=0," in repr(fresh)
