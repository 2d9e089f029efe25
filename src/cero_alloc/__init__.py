"""Which prompts get how many rollouts, and when, under one fixed rollout budget."""

from ._allocator import FenchelDualAllocator
from ._ledger import Horizon
from ._oracle import OfflineOracle, OracleResult
from ._posterior import BetaPosteriorBank
from ._utility import SaturatingUtility

__version__ = "0.1.0"

__all__ = [
    "BetaPosteriorBank",
    "FenchelDualAllocator",
    "Horizon",
    "OfflineOracle",
    "OracleResult",
    "SaturatingUtility",
]
