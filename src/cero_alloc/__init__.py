"""Allocate a fixed rollout budget over prompts and rounds of RL post-training."""

from ._allocators.fenchel_dual import FenchelDualAllocator
from ._allocators.resolving import ResolvingAllocator
from ._allocators.training import training_allocator
from ._budget.balance import Balance
from ._budget.horizon import Horizon
from ._evidence.bank import BetaPosteriorBank
from ._evidence.calibration import Calibration
from ._evidence.drift import ForgettingChoice
from ._evidence.prior import PriorFit
from ._objective.oracle import OfflineOracle, OracleResult
from ._objective.utility import SaturatingUtility

__version__ = "0.1.0"

__all__ = [
    "Balance",
    "BetaPosteriorBank",
    "Calibration",
    "FenchelDualAllocator",
    "ForgettingChoice",
    "Horizon",
    "OfflineOracle",
    "OracleResult",
    "PriorFit",
    "ResolvingAllocator",
    "SaturatingUtility",
    "training_allocator",
]
