"""Allocate a fixed rollout budget over prompts and rounds of RL post-training."""

from ._allocators.audit import Audit
from ._allocators.fenchel_dual import FenchelDualAllocator
from ._allocators.resolving import ResolvingAllocator
from ._allocators.training import training_allocator
from ._budget.balance import Balance
from ._budget.horizon import Horizon
from ._checks import AllocationWarning
from ._evidence.bank import BetaPosteriorBank
from ._evidence.calibration import Calibration
from ._evidence.fitting import BeliefFit
from ._evidence.forgetting import ForgettingChoice
from ._evidence.ids import repeat
from ._evidence.prior import PriorFit
from ._objective.oracle import OfflineOracle, OracleResult
from ._objective.utility import SaturatingUtility

__version__ = "0.1.0"

__all__ = [
    "AllocationWarning",
    "Audit",
    "Balance",
    "BeliefFit",
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
    "repeat",
    "training_allocator",
]
