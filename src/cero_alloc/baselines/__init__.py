"""Published allocation rules and the paper's controls, with the same methods as this package's allocators.

Every class is built as ``cls(bank, total_budget=, n_rounds=, max_rollouts=)``, with the optional arguments
``unit_size``, ``round_capacity`` and ``seed``, all as in :class:`~cero_alloc.FenchelDualAllocator`, and has
``allocate(prompt_ids=None, budget=None, *, exact=False)``, ``update(prompt_ids, successes, rollouts)``,
``state_dict()`` and ``load_state_dict(state)``. The rules are implemented from the published formulas; each docstring
names its source and, under *Deviations*, all differences from it.

Rounds follow the uniform schedule, floor(B k / K) units after k of K rounds, as far as the caps allow. Rules that
distribute a batch first choose one from the prompts on offer, as a data loader would: total / ``rollouts_per_visit``
prompts, the least visited first. Rules that use rewards within a round (:class:`DAPO`, :class:`ReinforceAda`,
:class:`VIGOR`, :class:`SpeedRL`, :class:`PilotCommit`, :class:`NGU`, :class:`SARA`) also have
``continue_round(counts, successes)``, which deals the next wave.

``PEERS`` lists the published rules and ``CONTROLS`` the controls without a schedule; all of them can be built from the
shared arguments alone.
"""

from ._arcus import ARCUS
from ._base import Baseline
from ._beliefs import DPS, KGPS
from ._controls import FixedPacing, Greedy, Preset, RandomMatched, Uniform
from ._curricula import AdaRFT, NoPositiveResampling
from ._probing import NGU, SARA
from ._proportions import DUET, GVM, Neyman
from ._resampling import DAPO, VIGOR, ReinforceAda
from ._sampling import CurES, Learnability, MaPP
from ._screening import PilotCommit, SpeedRL
from ._selectors import BOTS, GRESO, MoPPS
from ._values import HORA, VIP, CoBARL, KnapsackRL
from ._waves import Waves

#: The paper's controls without a schedule, which can be built from the shared arguments alone.
CONTROLS = (Uniform, FixedPacing, Greedy)
#: The published rules, which can be built from the shared arguments alone.
PEERS = (
    KnapsackRL, VIP, CoBARL, HORA, GVM, Neyman, DUET, MoPPS, GRESO, BOTS, DAPO, ReinforceAda, VIGOR, SpeedRL, PilotCommit,
    MaPP, Learnability, CurES, NGU, SARA,
    DPS, KGPS, ARCUS, AdaRFT, NoPositiveResampling,
)  # fmt: skip

__all__ = [
    "ARCUS",
    "BOTS",
    "CONTROLS",
    "DAPO",
    "DPS",
    "DUET",
    "GRESO",
    "GVM",
    "HORA",
    "KGPS",
    "NGU",
    "PEERS",
    "SARA",
    "VIGOR",
    "VIP",
    "AdaRFT",
    "Baseline",
    "CoBARL",
    "CurES",
    "FixedPacing",
    "Greedy",
    "KnapsackRL",
    "Learnability",
    "MaPP",
    "MoPPS",
    "Neyman",
    "NoPositiveResampling",
    "PilotCommit",
    "Preset",
    "RandomMatched",
    "ReinforceAda",
    "SpeedRL",
    "Uniform",
    "Waves",
]
