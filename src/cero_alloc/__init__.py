"""Which prompts get how many rollouts, and when, under one fixed rollout budget."""

from ._allocators.fenchel_dual import FenchelDualAllocator
from ._allocators.resolving import ResolvingAllocator
from ._allocators.training import training_allocator
from ._budget.horizon import Horizon
from ._budget.ledger import Balance
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
