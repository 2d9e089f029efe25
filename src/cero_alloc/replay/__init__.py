"""Training logs: read one, and replay it under other policies."""

from ._log import BadLine, RolloutLog
from ._reader import read_log
from ._replay import ReplayResult, ReplayRow, default_policies, replay

__all__ = ["BadLine", "ReplayResult", "ReplayRow", "RolloutLog", "default_policies", "read_log", "replay"]
