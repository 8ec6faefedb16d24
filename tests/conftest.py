"""What the tests share: their own modules, and threads that sleep while they wait.

The tests ask for up to eight threads on machines of two cores, where spinning ones take turns of
milliseconds. libgomp reads the variable when it is loaded, which is before any test.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
