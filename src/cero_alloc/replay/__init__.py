"""Read training logs and replay them under other policies."""

from ._log import BadLine, Reading, RolloutLog
from ._own import AgainstUniform, against_uniform
from ._policies import default_policies
from ._reader import read_log
from ._replay import replay
from ._results import ReplayResult, ReplayRow
from ._scale import RewardScale
from ._verdict import Verdict, verdict

__all__ = [
    "AgainstUniform",
    "BadLine",
    "Reading",
    "ReplayResult",
    "ReplayRow",
    "RewardScale",
    "RolloutLog",
    "Verdict",
    "against_uniform",
    "default_policies",
    "read_log",
    "replay",
    "verdict",
]
