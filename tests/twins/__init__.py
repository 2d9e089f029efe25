"""A slow and obvious twin of every kernel, under its name, and of the published rules: one file per family.

Pure Python over floats and lists, one prompt at a time, no code in common with the package.
"""

from .advantages import *  # noqa: F403
from .baselines import *  # noqa: F403
from .budget import *  # noqa: F403
from .evidence import *  # noqa: F403
from .fenchel_dual import *  # noqa: F403
from .fitting import *  # noqa: F403
from .gains import *  # noqa: F403
from .learning import *  # noqa: F403
from .objective import *  # noqa: F403
from .oracle import *  # noqa: F403
from .ranking import *  # noqa: F403
from .sampling import *  # noqa: F403
from .simulation import *  # noqa: F403
from .tables import *  # noqa: F403
from .units import *  # noqa: F403
