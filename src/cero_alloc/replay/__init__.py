"""Read training logs and replay them under other policies."""

from ._log import BadLine, RolloutLog
from ._policies import default_policies
from ._reader import read_log
from ._replay import replay
from ._results import ReplayResult, ReplayRow

__all__ = ["BadLine", "ReplayResult", "ReplayRow", "RolloutLog", "default_policies", "read_log", "replay"]
