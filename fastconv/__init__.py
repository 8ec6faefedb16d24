"""Fast, exact convolution and pooling for NumPy arrays on a CPU."""

from . import _arguments, functional
from ._memory import free_memory
from ._options import algorithms, get_num_threads, isas, set_num_threads, show_config, using
from ._version import __version__
from .functional import *  # noqa: F403

__all__ = [
    "__version__",
    "algorithms",
    "free_memory",
    "get_num_threads",
    "isas",
    "set_num_threads",
    "show_config",
    "using",
    *_arguments.PUBLIC,
]
