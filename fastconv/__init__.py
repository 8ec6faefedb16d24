"""Fast, exact convolution and pooling for NumPy arrays on a CPU."""

from . import _arguments, functional
from ._explain import explain, workspace_bytes
from ._memory import free_memory
from ._options import algorithms, get_num_threads, isas, set_num_threads, show_config, using
from ._version import __version__
from .functional import *  # noqa: F403

__all__ = [
    "__version__",
    "algorithms",
    "explain",
    "free_memory",
    "get_num_threads",
    "isas",
    "set_num_threads",
    "show_config",
    "using",
    "workspace_bytes",
    *_arguments.PUBLIC,
]


def __getattr__(name: str):
    """What is loaded when it is first named: importing the package costs milliseconds."""
    from importlib import import_module

    if name in ("checkpoints", "models", "nn", "reference"):
        return import_module(f"{__name__}.{name}")
    if name == "receptive_field":
        return import_module(f"{__name__}.nn.receptive").receptive_field
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
