"""Metrics of a run in progress, and the certificate of its regret so far."""

from __future__ import annotations

import numpy as np

from cero_alloc._budget.ledger import RolloutLedger
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._objective.oracle import OfflineOracle
from cero_alloc._objective.utility import SaturatingUtility

from .audit import audit_metrics


def run_metrics(
    bank: BetaPosteriorBank,
    ledger: RolloutLedger,
    utility: SaturatingUtility,
    prices: tuple[float, float] | None,
    *,
    certificate: bool,
) -> dict[str, float]:
    """Return the metrics of any allocator; :meth:`Allocator.metrics` documents them."""
    metrics = ledger_metrics(ledger, prices) | audit_metrics(bank) | belief_metrics(bank) | bank.calibration().metrics()
    if certificate:
        metrics |= regret_certificate(bank, ledger, utility)
    return metrics


def ledger_metrics(ledger: RolloutLedger, prices: tuple[float, float] | None) -> dict[str, float]:
    """Return the metrics that need no pass over the prompts; ``prices`` are those of the run and of the last round."""
    metrics = {"round": float(ledger.round)}
    if prices is not None:
        price, batch_price = prices
        apart = abs(batch_price - price) > 1e-9 * price
        metrics |= {
            "price": price,
            "batch_price": batch_price,
            "starved": float(np.sign(batch_price - price)) if apart else 0.0,
        }
    return metrics | {
        "remaining_budget": float(ledger.remaining_budget),
        "reserved_budget": float(ledger.reserved_budget),
        "spent_budget": float(ledger.balance.spent),
        "projected_leftover": float(ledger.projected_leftover),
        "outstanding_rollouts": float(ledger.reserved),
        "unreserved_rollouts": float(ledger.unreserved),
        "pacing_gap": float(ledger.pacing_gap),
        "allocating_rounds": float(ledger.allocating_rounds),
    }


def belief_metrics(bank: BetaPosteriorBank) -> dict[str, float]:
    """Return how the bank's beliefs move, and its prior, as given or as fitted."""
    evidence = bank.evidence
    return {
        "drift": float(evidence.drift),
        "trend": float(evidence.trend),
        "prior_alpha": float(evidence.a0.mean()),
        "prior_beta": float(evidence.b0.mean()),
    }


def regret_certificate(bank: BetaPosteriorBank, ledger: RolloutLedger, utility: SaturatingUtility) -> dict[str, float]:
    """Return what the rollouts dealt so far achieve, and the most that the same rollouts could have, as values stand.

    The optimum spends no more than was spent, and on no prompt more than its offers so far allow. Utilities are per
    prompt. The oracle only evaluates: no decision depends on it.
    """
    q, h, size = bank.evidence.values(None), ledger.horizon, len(bank)
    cost = ledger.costs.rates
    achieved = float(utility.value(q, ledger.exposure_units / h.equal_share_units).sum())
    spent, upper = float((cost * ledger.exposure_units).sum()), cost * ledger.offers * h.max_units
    share = np.broadcast_to(cost * h.equal_share_units, size)
    result = OfflineOracle(utility).solve(q, spent, equal_share=share, upper=upper)
    return {
        "certificate_achieved": achieved / size,
        "certificate_optimum": result.optimum / size,
        "certificate_gap": result.gap / size,
        "certificate_regret": max(0.0, result.optimum + result.gap - achieved) / size,
    }
