"""Which prompts get how many rollouts, and when, under one fixed rollout budget."""

from ._allocator import FenchelDualAllocator
from ._calibration import Calibration
from ._horizon import Horizon
from ._ledger import Balance
from ._oracle import OfflineOracle, OracleResult
from ._posterior import BetaPosteriorBank
from ._prior import ForgettingChoice, PriorFit
from ._resolving import ResolvingAllocator
from ._training import training_allocator
from ._utility import SaturatingUtility

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
