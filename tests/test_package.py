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
from cero_alloc import BetaPosteriorBank, FenchelDualAllocator
from jit import compiled

PACKAGE = Path(cero_alloc.__file__).parent

# Who may import whom; each layer also sees the ones before it that it names.
LAYERS = {
    "_interpreted": set(),
    "_kernels": {"_interpreted"},
    "_checks": set(),
    "_state": {"_checks"},
    "_schema": {"_checks", "_state"},
    "_saved": {"_checks", "_schema", "_state", "_utility", "checkpoint"},
    "_reservations": {"_checks", "_state"},
    "_deliveries": {"_checks", "_state"},
    "checkpoint": {"_checks"},
    "_utility": {"_kernels", "_checks"},
    "_index": {"_kernels", "_checks"},
    "_prior": {"_checks"},
    "_calibration": {"_kernels", "_checks", "_state"},
    "_posterior": {"_kernels", "_checks", "_index", "_prior", "_calibration", "_saved", "_state"},
    "_horizon": {"_checks"},
    "_ledger": {"_kernels", "_checks", "_horizon", "_reservations", "_state"},
    "_run": {"_checks", "_deliveries", "_diagnostics", "_horizon", "_ledger", "_posterior", "_prior", "_saved", "_state", "_utility"},
    "_threads": set(),
    "_oracle": {"_kernels", "_checks", "_utility"},
    "_diagnostics": {"_ledger", "_oracle", "_posterior", "_utility"},
    "_batch": {"_kernels", "_checks"},
    "_units": {"_kernels", "_checks", "_utility"},
    "_running": {"_checks", "_units"},
    "_visit": {"_checks", "_units"},
    "_remaining": {"_kernels", "_checks", "_units", "_utility"},
    "_systematic": {"_checks"},
    "_pacing": {"_checks", "_horizon", "_ledger"},
    "_scores": {"_checks", "_kernels", "_horizon", "_posterior", "_remaining", "_utility"},
    "_dual": {"_kernels", "_checks", "_horizon", "_ledger", "_posterior", "_threads", "_utility"},
    "_allocator": {"_kernels", "_checks", "_dual", "_index", "_horizon", "_ledger", "_posterior", "_run", "_saved", "_state", "_utility"},
    "sharding": {
        "checkpoint", "_checks", "_diagnostics", "_dual", "_index", "_horizon", "_ledger", "_posterior", "_saved",
        "_state", "_utility",
    },
    "_resolving": {
        "_kernels", "_batch", "_checks", "_index", "_horizon", "_pacing", "_posterior", "_remaining", "_run", "_running", "_saved",
        "_scores", "_state", "_systematic", "_units", "_utility", "_visit",
    },
    "_training": {"_checks", "_posterior", "_resolving", "_utility"},
    "baselines._base": {
        "_kernels", "_checks", "_index", "_ledger", "_pacing", "_posterior", "_run", "_saved", "_state", "_utility",
    },
    "baselines._separable": {"_kernels", "_checks"},
    "baselines._gaussian": {"_checks", "_state", "baselines._base"},
    "baselines._controls": {
        "_kernels", "_checks", "_dual", "_posterior", "_run", "_saved", "_utility", "_allocator", "baselines._base",
    },
    "baselines._values": {"_checks", "_posterior", "_state", "baselines._base", "baselines._gaussian", "baselines._separable"},
    "baselines._proportions": {"_checks", "_ledger", "_pacing", "_posterior", "baselines._base", "baselines._separable"},
    "baselines._selectors": {"_checks", "_posterior", "baselines._base"},
    "baselines._waves": {"_checks", "_posterior", "_saved", "_state", "baselines._base"},
    "baselines._resampling": {"_checks", "_posterior", "baselines._base", "baselines._waves"},
    "baselines._screening": {"_checks", "_posterior", "baselines._base", "baselines._waves"},
    "baselines": {
        "baselines._base", "baselines._controls", "baselines._proportions", "baselines._resampling",
        "baselines._screening", "baselines._selectors", "baselines._values", "baselines._waves",
    },
    "_rounds": {"_checks", "_kernels"},
    "_pool": {"_checks", "_posterior"},
    "_loglinear": {"_checks", "_posterior"},
    "_learning": {"_checks", "_loglinear", "_rounds"},
    "_bounds": {"_kernels", "_checks", "_horizon", "_utility", "_oracle"},
    "_result": {"_checks", "_horizon", "_utility"},
    "_curves": {"_checks", "_result"},
    "simulation": {
        "_bounds", "_checks", "_curves", "_kernels", "_horizon", "_learning", "_log", "_log_reader", "_loglinear", "_oracle", "_pool",
        "_posterior", "_replay", "_result", "_rounds", "_utility",
    },
    "_log": {"_checks", "_posterior"},
    "_log_lines": set(),
    "_log_reader": {"_checks", "_log", "_log_lines"},
    "_replay_outcomes": {"_checks", "_log"},
    "_replay": {"_allocator", "_checks", "_log", "_posterior", "_replay_outcomes", "_resolving", "_result", "_rounds", "baselines"},
    "_replay_settings": {"_calibration", "_log", "_posterior", "_prior", "_replay", "_utility"},
    "_replay_report": {"_calibration", "_log", "_replay", "_replay_settings"},
    "__main__": {"_log_lines", "_log_reader", "_replay", "_replay_report", "plotting"},
    "plotting._axes": {"_checks"},
    "plotting._runs": {"_checks", "simulation"},
    "plotting._rounds": {"_checks", "simulation", "plotting._axes", "plotting._runs"},
    "plotting._prompts": {"_checks", "_result", "plotting._axes", "plotting._runs"},
    "plotting._studies": {"_checks", "_curves", "plotting._axes"},
    "plotting._replayed": {"_checks", "_replay", "plotting._axes"},
    "plotting": {"plotting._axes", "plotting._prompts", "plotting._replayed", "plotting._rounds", "plotting._studies"},
    "__init__": {
        "_allocator", "_calibration", "_horizon", "_ledger", "_oracle", "_posterior", "_prior", "_resolving", "_training", "_utility",
    },
}  # fmt: skip
JUDGES = {"_bounds", "_diagnostics", "simulation", "__init__"}  # who may use the oracle: no decision does


@cache
def imports_of(module):
    ours, others = set(), set()
    place = PACKAGE.joinpath(*module.split("."))
    package = module.split(".")[: None if place.is_dir() else -1]
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            if node.level:
                ours |= {".".join([*package, name]) for name in ({node.module} if node.module else names)}
            elif node.module.split(".")[0] == "cero_alloc":
                ours |= {node.module.partition(".")[2]} if "." in node.module else names
            else:
                others.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            others |= {alias.name.split(".")[0] for alias in node.names}
    return ours, others


@pytest.mark.parametrize("module", LAYERS)
def test_imports_run_one_way(module):
    ours, others = imports_of(module)
    assert ours <= LAYERS[module]
    assert ("numba" in others) == (module == "_kernels")
    assert "matplotlib" not in others or module.startswith("plotting._")


def test_the_oracle_decides_nothing():
    assert {module for module in LAYERS if "_oracle" in imports_of(module)[0]} == JUDGES
    assert not {"_allocator", "_resolving"} & imports_of("_oracle")[0]


def test_layers_have_no_cycles():
    done = set()
    while len(done) < len(LAYERS):
        ready = {module for module, below in LAYERS.items() if below <= done} - done
        assert ready
        done |= ready


def test_every_module_has_a_layer():
    modules = {".".join(file.relative_to(PACKAGE).with_suffix("").parts) for file in PACKAGE.rglob("*.py")}
    assert {module.removesuffix(".__init__") for module in modules} == set(LAYERS)


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
        "import sys, cero_alloc; from cero_alloc import _kernels, plotting;"
        "print('matplotlib' in sys.modules, 'scipy.optimize' in sys.modules, 'cvxpy' in sys.modules,"
        "sum(len(f.signatures) for f in vars(_kernels).values() if hasattr(f, 'signatures')))"
    )
    assert run_python(code) == "False False False 0"


@compiled
def test_works_where_nothing_can_be_cached(tmp_path):
    # A read-only install with no home: numba finds no cache folder and must not fail at import.
    code = (
        "import numba.core.caching as caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "import cero_alloc\n"
        "print(float(cero_alloc.SaturatingUtility().value(0.25, 0.0)))"
    )
    assert run_python(code, NUMBA_CACHE_DIR="") == "0.0"


EVERYTHING = """
import numba.core.caching as caching
caching.Cache.load_overload = lambda *_: None
import numpy as np
from cero_alloc import (
    BetaPosteriorBank, FenchelDualAllocator, Horizon, OfflineOracle, ResolvingAllocator, SaturatingUtility, _kernels, simulation
)
from cero_alloc.sharding import PoolShard, ShardedAllocator
from cero_alloc.baselines import CONTROLS, PEERS

frozen = np.array([0.2, 0.1])
frozen.flags.writeable = False
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
        for n_min in (0, 2, 5):
            plan = {"n_rounds": 6, "visits": visits, "min_rollouts": n_min, "signal": signal}
            run(total_budget=60, **plan)
            run(total_budget=60, budget=13, **plan, utility=line, fit_every=2)
            run(total_budget=60, budget=13, **plan, exact=True, exploration=0.5)
            run(total_budget=70, **plan, band=np.inf, front_load=2.0, seed=1)
            for costs in (3.0, 2, np.linspace(1, 30, 7), np.arange(1, 8)):
                run(total_budget=300.5, **plan, costs=costs)
                run(total_budget=300, **plan, costs=costs, budget=40, utility=line)
run(total_budget=60, n_rounds=None, visits=4)
run(total_budget=60, n_rounds=4, offers=([0, 1], [5, 4, 6]))
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
kernels = {name: len(f.signatures) for name, f in vars(_kernels).items() if hasattr(f, "py_func")}
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
