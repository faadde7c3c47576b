"""What happens when things go wrong, counted: one file per proof, each with a control that must fail. `python -m reliability`."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are so small that threads cost more than they give
