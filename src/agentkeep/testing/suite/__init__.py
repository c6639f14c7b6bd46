"""Every test of the contract: `from agentkeep.testing.suite import *` in a test file runs them all there.

The fixtures come along, so that those of a conftest.py with the same names do not take their place.
"""

from ..fixtures import *  # noqa: F403
from .claimed import *  # noqa: F403
from .concurrency import *  # noqa: F403
from .copying import *  # noqa: F403
from .crash import *  # noqa: F403
from .expiry import *  # noqa: F403
from .faults import *  # noqa: F403
from .fidelity import *  # noqa: F403
from .files import *  # noqa: F403
from .filters import *  # noqa: F403
from .life import *  # noqa: F403
from .limits import *  # noqa: F403
from .logs import *  # noqa: F403
from .model import *  # noqa: F403
from .once import *  # noqa: F403
from .order import *  # noqa: F403
from .rows import *  # noqa: F403
