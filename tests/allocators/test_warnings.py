"""Calls that are allowed and most likely a mistake warn once per cause, and mistakes of tensors name the remedy."""

import uuid
import warnings

import numpy as np
import pytest

from cero_alloc import (
    AllocationWarning,
    BetaPosteriorBank,
    FenchelDualAllocator,
    ResolvingAllocator,
    training_allocator,
)
from cero_alloc.baselines import Uniform

IDS = [f"q{i}" for i in range(20)]
RUN = {"total_budget": 320, "n_rounds": 10, "max_rollouts": 8}
KINDS = [FenchelDualAllocator, ResolvingAllocator, Uniform]


def heard(call):
    """Return what a call returns, and the texts of its warnings, all of which name this file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = call()
    assert all((entry.category, entry.filename) == (AllocationWarning, __file__) for entry in caught)
    return found, [str(entry.message) for entry in caught]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("more", [0, 1])
def test_more_reported_than_dealt_warns_once(kind, more):
    allocator = kind(BetaPosteriorBank(IDS), **RUN)
    counts = allocator.allocate(budget=40, exact=True)
    first = heard(lambda: allocator.update(None, counts // 2, counts + more))[1]
    again = heard(lambda: allocator.update(None, counts // 2, counts))[1]
    told = f"{20 if more else 40} of the rollouts reported after round 1 were not outstanding"
    assert [text.startswith(told) for text in first + again] == [True]
    assert bool(first) == bool(more)
    assert heard(lambda: allocator.observe(["q0"], [1.0]))[1] == []


@pytest.mark.parametrize("kind", KINDS)
def test_reports_that_are_in_order_do_not_warn(kind):
    allocator = kind(BetaPosteriorBank(IDS), **RUN)
    assert heard(lambda: allocator.update(["q0"], [1], [2]))[1] == []  # from an older log
    counts = allocator.allocate(budget=40, exact=True)
    for _ in range(2):
        assert heard(lambda: allocator.update(None, counts // 2, counts, delivery_id=1))[1] == []
    late = allocator.allocate(budget=40, exact=True)
    assert allocator.expire(None) == 40
    assert heard(lambda: allocator.update(None, late // 2, late))[1] == []


def test_an_error_made_of_the_warning_leaves_the_report_counted():
    allocator = Uniform(BetaPosteriorBank(IDS), **RUN)
    counts = allocator.allocate()
    with warnings.catch_warnings():
        warnings.simplefilter("error", AllocationWarning)
        with pytest.raises(AllocationWarning, match="a delivery_id makes a repeated report harmless"):
            allocator.update(None, counts // 2, counts + 1, delivery_id=7)
        allocator.update(None, counts // 2, counts + 1, delivery_id=7)
    assert allocator.metrics(certificate=False)["unreserved_rollouts"] == 20


@pytest.mark.parametrize("kind", KINDS)
def test_a_budget_below_a_unit_per_round_warns(kind):
    _, texts = heard(lambda: kind(BetaPosteriorBank(IDS), **RUN | {"total_budget": 1}))
    assert [
        text.startswith("total_budget = 1 pays for less than one rollout in each of 10 rounds") for text in texts
    ] == [True]
    assert heard(lambda: kind(BetaPosteriorBank(IDS), **RUN | {"total_budget": 10}))[1] == []


def test_so_do_visits_and_the_recommended_settings():
    _, texts = heard(
        lambda: ResolvingAllocator(BetaPosteriorBank(IDS), total_budget=2, visits=8, unit_size=2, max_rollouts=8)
    )
    assert ["less than 2 rollouts in each of 8 rounds" in text for text in texts] == [True]
    _, texts = heard(lambda: training_allocator(IDS, total_budget=1, n_rounds=10))
    assert len(texts) == 1


def test_a_budget_below_a_group_per_round_warns():
    run = {"n_rounds": 100, "rollouts_per_visit": 8}
    _, texts = heard(lambda: training_allocator(IDS, total_budget=400, **run))
    assert ["less than 8 rollouts in each of 100 rounds" in text for text in texts] == [True]
    assert "or the least count (unit_size, min_rollouts or rollouts_per_visit)." in texts[0]
    assert heard(lambda: training_allocator(IDS, total_budget=800, **run))[1] == []


@pytest.mark.parametrize("odd", [b"a", frozenset("a"), uuid.UUID(int=1)])
def test_ids_that_no_saved_state_holds_warn(odd, tmp_path):
    bank, texts = heard(lambda: BetaPosteriorBank(["p", odd]))
    assert [text.startswith("prompts[1] = ") and f"of type {type(odd).__name__}" in text for text in texts] == [True]
    with pytest.raises(TypeError, match=type(odd).__name__):
        bank.save(tmp_path / "bank.npz")
    assert heard(lambda: bank.add_prompts(["q"]))[1] == []
    assert len(heard(lambda: BetaPosteriorBank(["p"]).add_prompts([odd]))[1]) == 1
    for usual in (["a"], [1, 2.5], [("a", 1), None], [np.int64(3), np.str_("b")]):
        assert heard(lambda: BetaPosteriorBank(usual))[1] == []  # noqa: B023


@pytest.mark.parametrize(
    ("pace", "word", "rounds"), [({"n_rounds": 2}, "n_rounds", 2), ({"visits": 2, "band": np.inf}, "visits", 40)]
)
def test_zeros_after_the_end_warn_once_where_budget_is_left(pace, word, rounds):
    allocator = ResolvingAllocator(BetaPosteriorBank(IDS), total_budget=160, max_rollouts=8, **pace)
    for k in range(rounds):
        assert heard(lambda: allocator.allocate([IDS[k % 20]], 1))[1] == []  # noqa: B023
    assert allocator.remaining_budget >= 120
    counts, texts = heard(lambda: allocator.allocate(IDS[:4]))
    assert counts.tolist() == [0] * 4
    assert [f"Raise {word}, " in text and " of 160 rollouts left" in text for text in texts] == [True]
    assert heard(allocator.allocate)[1] == []


def test_zeros_at_the_end_are_in_order_where_the_budget_is_spent():
    allocator = Uniform(BetaPosteriorBank(IDS), **RUN)
    for _ in range(12):
        assert heard(allocator.allocate)[1] == []
    assert allocator.remaining_budget == 0


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_while_rounds_are_left_warn_once(kind):
    allocator = kind(BetaPosteriorBank(IDS), **RUN)
    for _ in range(2):  # total_budget taken for that of two rounds
        assert heard(lambda: allocator.allocate(budget=160, exact=True))[1] == []
    assert heard(lambda: allocator.allocate(budget=0))[1] == []
    counts, texts = heard(lambda: allocator.allocate(budget=160))
    assert not counts.any()
    assert texts == [
        "allocate deals nothing any more: the budget is spent after round 2 of 10; total_budget counts all rollouts of the "
        "run. Raise it, or call extend_budget(rollouts=...)."
    ]
    assert heard(allocator.allocate)[1] == []


@pytest.mark.parametrize(
    ("n_rounds", "early", "budget", "warns"),
    [(10, 1, 8, 0), (10, 2, 8, 1), (40, 3, 8, 0), (40, 4, 8, 1), (10, 4, None, 0), (10, 5, None, 1)],
)
def test_a_run_that_is_a_few_rounds_short_is_in_order(n_rounds, early, budget, warns):
    allocator = Uniform(BetaPosteriorBank(IDS), total_budget=8 * (n_rounds - early), n_rounds=n_rounds, max_rollouts=8)
    for _ in range(n_rounds - early):
        assert heard(lambda: allocator.allocate(budget=8, exact=True))[1] == []
    assert len(heard(lambda: [allocator.allocate(budget=budget) for _ in range(early + 2)])[1]) == warns


@pytest.mark.parametrize("order", ["best", "spread"])
def test_a_round_below_a_visit_warns_once(order):
    allocator = ResolvingAllocator(BetaPosteriorBank(IDS), **RUN, min_rollouts=4, order=order)
    counts, texts = heard(lambda: allocator.allocate(budget=3))
    assert not counts.any()
    assert [text.startswith("budget = 3 is less than the 4 rollouts of the smallest visit") for text in texts] == [True]
    assert heard(lambda: allocator.allocate(budget=3))[1] == []
    assert heard(lambda: allocator.allocate(budget=0))[1] == []


class Unready:
    """What torch does with a tensor that NumPy cannot take."""

    def __init__(self, error, dtype="torch.float32"):
        self.error, self.dtype = error, dtype

    def __len__(self):
        return 1

    def __iter__(self):
        raise self.error

    def __array__(self, *_, **__):
        raise self.error


ERRORS = [
    RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead."),
    TypeError("Got unsupported ScalarType BFloat16"),
    TypeError(
        "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."
    ),
]


@pytest.mark.parametrize("error", ERRORS, ids=["grad", "bf16", "cuda"])
def test_tensors_that_numpy_cannot_take_name_the_remedy(error):
    allocator = Uniform(BetaPosteriorBank(4), **RUN | {"total_budget": 80})
    remedy = (
        rf"{str(error).rstrip('.').replace('(', '.').replace(')', '.')}\. Pass a NumPy array; of a torch tensor, tensor"
    )
    for call in (
        lambda: allocator.update([0], Unready(error), [2]),
        lambda: allocator.observe([0], Unready(error)),
        lambda: allocator.allocate(Unready(error)),
    ):
        with pytest.raises(
            TypeError, match=rf"must convert to a NumPy array, got Unready: {remedy}\.detach\(\)\.float\(\)\.cpu"
        ):
            call()
    with pytest.raises(TypeError, match=r"of a torch tensor, tensor\.detach\(\)\.cpu\(\)\.$"):
        allocator.update([0], [1], Unready(error, "torch.int64"))


def test_real_tensors_name_it_too():
    torch = pytest.importorskip("torch")
    for tensor in (torch.tensor([1.0], requires_grad=True), torch.tensor([1.0], dtype=torch.bfloat16)):
        bank = BetaPosteriorBank(4)
        with pytest.raises(TypeError, match=r"of a torch tensor, tensor\.detach\(\)\.float\(\)\.cpu\(\)\.$"):
            bank.update([0], tensor, [2])
        bank.update([0], tensor.detach().float().cpu(), [2])


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("part", [0, 2])
def test_late_reports_of_what_expired_do_not_warn(resumed, part):
    run = {"total_budget": 320, "n_rounds": 10, "max_rollouts": 8, "unit_size": 4}
    allocator = Uniform(BetaPosteriorBank(IDS), **run)
    counts = allocator.allocate()
    if part:  # what is outstanding are parts of units, which stay spent
        allocator.update(None, 0 * counts, counts - np.minimum(counts, part))
        counts = np.minimum(counts, part)
    allocator.allocate()
    allocator.expire(0)
    if resumed:
        state, allocator = allocator.state_dict(), Uniform(BetaPosteriorBank(IDS), **run)
        allocator.load_state_dict(state)
    assert heard(lambda: allocator.update(None, 0 * counts, counts, round=1))[1] == []
