"""What the allocators report of a run while it lasts."""

from __future__ import annotations

import numpy as np

from cero_alloc._budget.ledger import RolloutLedger
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._objective.oracle import OfflineOracle
from cero_alloc._objective.utility import SaturatingUtility


def run_metrics(
    bank: BetaPosteriorBank,
    ledger: RolloutLedger,
    utility: SaturatingUtility,
    *,
    price: float,
    batch_price: float,
    certificate: bool,
) -> dict[str, float]:
    """Return the metrics that both allocators share; their meaning stands at FenchelDualAllocator.metrics."""
    metrics = ledger_metrics(ledger, price=price, batch_price=batch_price) | bank.calibration().metrics()
    if certificate:
        metrics |= regret_certificate(bank, ledger, utility)
    return metrics


def ledger_metrics(ledger: RolloutLedger, *, price: float, batch_price: float) -> dict[str, float]:
    """Return the metrics that need no look at the prompts."""
    return {
        "round": float(ledger.round),
        "price": price,
        "batch_price": batch_price,
        "starved": float(np.sign(batch_price - price)) if abs(batch_price - price) > 1e-9 * price else 0.0,
        "remaining_budget": float(ledger.remaining_budget),
        "reserved_budget": float(ledger.reserved_budget),
        "spent_budget": float(ledger.balance.spent),
        "projected_leftover": float(ledger.projected_leftover),
        "outstanding_rollouts": float(ledger.reserved),
        "unreserved_rollouts": float(ledger.unreserved),
        "pacing_gap": float(ledger.pacing_gap),
        "allocating_rounds": float(ledger.allocating_rounds),
    }


def regret_certificate(bank: BetaPosteriorBank, ledger: RolloutLedger, utility: SaturatingUtility) -> dict[str, float]:
    """Return what the rollouts dealt so far achieve, and the most that the same rollouts could have, as values stand.

    The optimum spends no more than was spent, and on no prompt more than its offers so far allow. Utilities are per
    prompt. The oracle only judges: no decision depends on it.
    """
    q, h, size = bank.evidence.values(None), ledger.horizon, len(bank)
    cost = 1.0 if ledger.unit_costs is None else ledger.unit_costs
    achieved = float(utility.value(q, ledger.exposure / h.equal_share_units).sum())
    spent, upper = float((cost * ledger.exposure).sum()), cost * ledger.offers * h.max_units
    share = np.broadcast_to(cost * h.equal_share_units, size)
    result = OfflineOracle(utility).solve(q, spent, equal_share=share, upper=upper)
    return {
        "certificate_achieved": achieved / size,
        "certificate_optimum": result.optimum / size,
        "certificate_gap": result.gap / size,
        "certificate_regret": max(0.0, result.optimum + result.gap - achieved) / size,
    }
