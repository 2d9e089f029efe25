"""Read training logs and replay them under other policies."""

from ._log import BadLine, Reading, RolloutLog
from ._policies import default_policies
from ._reader import read_log
from ._replay import replay
from ._results import ReplayResult, ReplayRow
from ._scale import RewardScale
from ._verdict import Verdict, verdict

__all__ = [
    "BadLine",
    "Reading",
    "ReplayResult",
    "ReplayRow",
    "RewardScale",
    "RolloutLog",
    "Verdict",
    "default_policies",
    "read_log",
    "replay",
    "verdict",
]
