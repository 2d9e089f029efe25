"""The package as a whole: layers, import cost, one specialisation per kernel, installs that cannot be written to."""

import ast
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import cero_alloc
from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, _numba
from helpers.jit import compiled

PACKAGE = Path(cero_alloc.__file__).parent

# From the bottom up: a module imports from its own layer and from those before it.
LAYERS = [
    "_checks", "_columns", "_numba", "_pages", "checkpoint", "_saving", "_objective", "_evidence", "_budget", "_solvers", "_allocators",
    "sharding", "baselines", "simulation", "replay", "plotting", "integrations", "__main__",
]  # fmt: skip
ORACLE = "_objective.oracle"
MAY_USE_ORACLE = {
    "__init__",
    "_allocators.metrics",
    "simulation._bounds",
    "simulation._simulate",
}  # who may use it: no decision does
MODULES = sorted(
    ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    for file in PACKAGE.rglob("*.py")
)


@cache
def imports_of(module):
    """Return the package's modules that a module imports, and the names of other top-level packages."""
    ours, others = set(), set()
    place = PACKAGE.joinpath(*module.split("."))
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    package = module.split(".") if place.is_dir() else module.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            others |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = node.module.split(".") if node.module else []
            if node.level:
                source = [*package[: len(package) - node.level + 1], *source]
            elif source[0] == "cero_alloc":
                source = source[1:]
            else:
                others.add(source[0])
                continue
            for alias in node.names:  # a name may be a module of that package
                named = ".".join([*source, alias.name])
                ours.add(named if named in MODULES else ".".join(source) or "__init__")
    return ours - {module, "__init__"}, others


def layer_of(module):
    return module.split(".")[0]


@cache
def depth_of(module):
    """Return how many modules stand below a module, one upon the other."""
    return max((depth_of(below) + 1 for below in imports_of(module)[0]), default=0)


def test_imports_run_one_way():
    depths = {}
    for module in MODULES:  # a circle would end in a RecursionError
        depths.setdefault(depth_of(module), []).append(module)
    for depth, modules in sorted(depths.items()):
        print(f"{depth:2}  {', '.join(modules)}")
    for module in set(MODULES) - {"__init__"}:
        allowed = LAYERS[: LAYERS.index(layer_of(module)) + 1]
        upward = sorted(below for below in imports_of(module)[0] if layer_of(below) not in allowed)
        assert not upward, f"{module} imports upwards: {upward}"


@pytest.mark.parametrize("module", MODULES)
def test_heavy_packages_are_imported_where_they_belong(module):
    others = imports_of(module)[1]
    assert ("numba" in others) == (module == "_numba")
    assert "matplotlib" not in others or module.startswith("plotting._")


def test_the_oracle_decides_nothing():
    assert {module for module in MODULES if ORACLE in imports_of(module)[0]} == MAY_USE_ORACLE
    assert not any(layer_of(below) == "_allocators" for below in imports_of(ORACLE)[0])


def test_few_files_at_the_top_and_none_too_long():
    assert len(list(PACKAGE.glob("*.py"))) <= 6
    lengths = {str(file.relative_to(PACKAGE)): file.read_text().count("\n") for file in PACKAGE.rglob("*.py")}
    assert {name: n for name, n in lengths.items() if n > 600} == {}


SHARED_KERNELS = {"_objective.kernels", "_evidence.kernels"}


@pytest.mark.parametrize("module", [module for module in MODULES if module.endswith("kernels")])
def test_kernels_call_other_files_only_where_the_cache_may_follow(module):
    # Numba's cache does not see a callee change in another file; _numba drops indices older than the files named there.
    assert imports_of(module)[0] <= SHARED_KERNELS | {"_numba"}
    assert {f"{name.replace('.', '/')}.py" for name in SHARED_KERNELS} < set(_numba._SHARED)


def test_kernels_live_in_kernel_files_alone():
    for module in MODULES:
        file = PACKAGE.joinpath(*module.split(".")).with_suffix(".py")
        decorated = file.is_file() and "@kernel\n" in file.read_text()
        assert decorated == module.endswith("kernels")


MOST_ARGUMENTS = 12


def test_kernels_take_few_arguments():
    counts = {}
    for module in [module for module in MODULES if module.endswith("kernels")]:
        tree = ast.parse(PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text())
        counts |= {node.name: len(node.args.args) for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {name for name, n in counts.items() if n > MOST_ARGUMENTS} == set()


def test_public_names():
    assert sorted(cero_alloc.__all__) == cero_alloc.__all__
    for name in cero_alloc.__all__:
        assert getattr(cero_alloc, name).__doc__


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", code],
        env={**os.environ, **environment}, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip


def test_import_is_light_and_compiles_nothing():
    code = (
        "import sys, cero_alloc; from cero_alloc import _numba, plotting;"
        "print('matplotlib' in sys.modules, 'scipy.optimize' in sys.modules, 'cvxpy' in sys.modules,"
        "sum(len(f.signatures) for f in _numba.KERNELS.values() if hasattr(f, 'signatures')))"
    )
    assert run_python(code) == "False False False 0"


@compiled
def test_works_where_nothing_can_be_cached(tmp_path):
    # A read-only install with no home: numba finds no cache folder and must not fail at import.
    code = (
        "import numba.core.caching as caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "import cero_alloc\n"
        "cero_alloc._numba.PATIENCE = 0\n"
        "print(float(cero_alloc.SaturatingUtility().value(0.25, 0.0)))"
    )
    assert run_python(code, NUMBA_CACHE_DIR="") == "0.0"


EVERYTHING = """
import numba.core.caching as caching
caching.Cache.load_overload = lambda *_: None
import numpy as np
from cero_alloc import (
    BetaPosteriorBank, FenchelDualAllocator, Horizon, OfflineOracle, ResolvingAllocator, SaturatingUtility, _numba, simulation
)
from cero_alloc._solvers.sampling import MANY
from cero_alloc.sharding import PoolShard, ShardedAllocator
from cero_alloc.baselines import CONTROLS, PEERS

_numba.PATIENCE = 0  # compile at once
frozen = np.array([0.2, 0.1])
frozen.flags.writeable = False
frozen_lengths = np.array([3, 1, 2], dtype=np.int32)
frozen_lengths.flags.writeable = False
for ids, prior in ((5, (1, 1)), (list("abcde"), ([1] * 5, np.ones(5, dtype=np.float32)))):
    for visits in (None, 3, np.full(5, 2, dtype=np.int8)):
        bank = BetaPosteriorBank(ids, prior=prior, forgetting=0.9)
        allocator = FenchelDualAllocator(bank, total_budget=24, n_rounds=6, max_rollouts=3, visits=visits)
        for offer in (None, list(bank.prompt_ids)[:3], tuple(bank.prompt_ids)[1:]):
            counts = allocator.allocate(offer, np.int32(6))
            counts.flags.writeable = False
            allocator.update(offer, counts.astype(np.int32), counts)
        allocator.allocate(budget=2, exact=True)
        allocator.metrics(), bank.interval(0.9), bank.mean()

def run(n_rounds, total_budget, budget=None, offers=(None, [3, 0, 1]), exact=False, **kwargs):
    bank = BetaPosteriorBank(7, prior=(np.ones(7), np.linspace(1, 9, 7)))
    allocator = ResolvingAllocator(bank, n_rounds=n_rounds, total_budget=total_budget, max_rollouts=9, **kwargs)
    for turn in range(4):
        offer = offers[turn % len(offers)]
        counts = allocator.allocate(offer, budget, exact=exact)
        allocator.update(offer, np.zeros(counts.size, dtype=np.int64), counts)
    allocator.metrics()

line = SaturatingUtility("capped-linear", scaling="height")
for signal in ("variance", "group"):
    for visits in (None, 4, np.full(7, 4, dtype=np.int16)):
        for min_units in (0, 2, 5):
            plan = {"n_rounds": 6, "visits": visits, "min_rollouts": min_units, "signal": signal}
            run(total_budget=60, **plan)
            run(total_budget=60, budget=13, **plan, utility=line, fit_every=2)
            run(total_budget=60, budget=13, **plan, exact=True, exploration=0.5)
            run(total_budget=70, **plan, band=np.inf, front_load=2.0, seed=1)
            for costs in (3.0, 2, np.linspace(1, 30, 7), np.arange(1, 8)):
                run(total_budget=300.5, **plan, costs=costs)
                run(total_budget=300, **plan, costs=costs, budget=40, utility=line)
run(total_budget=60, n_rounds=None, visits=4)
run(total_budget=60, n_rounds=4, offers=([0, 1], [5, 4, 6]))
for utility in (SaturatingUtility(), line):
    run(total_budget=60, n_rounds=6, order="spread", min_rollouts=2, exploration=0.3, utility=utility)
    run(total_budget=60, n_rounds=6, order="spread", visits=np.full(7, 4), coverage=9, utility=utility)
rng = np.random.default_rng(0)
bank = BetaPosteriorBank(MANY)
ResolvingAllocator(bank, n_rounds=6, total_budget=60, max_rollouts=9, order="spread").allocate()
for drift, trend, forgetting in ((0.1, 0.0, 1.0), (0.0, 0.1, 1.0), (0.1, 0.1, 1.0), (0.1, 0.1, 0.9), (0, 0, 1)):
    for prior in ((1, 1), (np.ones(40), np.linspace(1, 2, 40))):
        bank = BetaPosteriorBank(40, prior=prior, drift=drift, trend=trend, forgetting=forgetting, reward_range=(-1, 2))
        allocator = FenchelDualAllocator(bank, total_budget=2400, n_rounds=8, max_rollouts=8, fit_every=2)
        for turn in range(8):
            counts = allocator.allocate()
            won = rng.binomial(counts, np.linspace(0.05, 0.95, 40))
            if turn % 2:
                allocator.update(None, 3 * won - counts, counts, squares=3 * won + counts if turn > 4 else None)
            else:
                allocator.observe(bank.prompts_of(counts), rng.choice([-1.0, 0.5, 2.0], counts.sum()))
        allocator.metrics(), bank.interval(0.9), bank.mean()
pool = simulation.drifting_pool(4)
horizon = Horizon(n_prompts=5, n_rounds=4, total_budget=16, max_rollouts=2, round_capacity=6)
split = ShardedAllocator([PoolShard(BetaPosteriorBank(n), horizon, at) for n, at in ((2, 0), (3, 2))], horizon, catch_up=True)
for turn in range(4):
    rows, dealt = split.allocate(4, exact=turn == 2)
    split.update(rows, dealt / 2, dealt)
for policy in (*CONTROLS, *PEERS):
    simulation.simulate(policy(pool.bank(), total_budget=256, n_rounds=4, max_rollouts=32), pool, 4)
for shape in ("exponential", "log"):
    utility = SaturatingUtility(shape, saturation=1)
    utility.value(0.25, 1), utility.marginal([0.1], 2.0), utility.demand(0.2, [[0.5]], 3), utility.conjugate(frozen, 0, 3)
    for integer in (False, True):
        OfflineOracle(utility).solve(frozen, 3, equal_share=1, upper=[2, 3], integer=integer)
simulation.step_time(frozen_lengths, 2), simulation.step_time([3, 1, 2], 1, workers=2)
kernels = {name: len(f.signatures) for name, f in _numba.KERNELS.items()}
print(sorted(name for name, count in kernels.items() if count != 1))
"""


@compiled
def test_one_specialisation_per_kernel():
    # Nothing is loaded from the cache, where a kernel that only kernels call would not show its specialisations; all is
    # stored there, for the tests that come after.
    assert run_python(EVERYTHING) == "[]"


def test_twice_the_same_random_state_does_not_leak():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    FenchelDualAllocator(BetaPosteriorBank(50), total_budget=50, n_rounds=5, max_rollouts=2, seed=3).allocate()
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
