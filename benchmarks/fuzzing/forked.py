"""Imported by the process that runs cases: has an export fork its workers, which import for seconds otherwise.

What a fork may break are locks of other threads, so PyTorch gets none.
"""

import sys

from data_prep import workers

workers._START = "fork"
if torch := sys.modules.get("torch"):
    torch.set_num_threads(1)
