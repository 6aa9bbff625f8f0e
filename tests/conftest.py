"""One BLAS thread before numpy is imported, as every runtime sets it: more would change the last bits."""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
