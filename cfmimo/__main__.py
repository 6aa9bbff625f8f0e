"""Entry point: fixes the number of threads before numpy is imported, then hands over to `cli`."""

import os
import signal
import sys

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # more would change the last bits of a sum, and so the digest


def main() -> None:
    """Run the command line and exit with its status."""
    from cfmimo.interrupts import INTERRUPTS, leave

    for number in INTERRUPTS:
        signal.signal(number, leave)
    from cfmimo.cli.main import run_cfmimo

    sys.exit(run_cfmimo(sys.argv[1:]))


if __name__ == "__main__":
    main()
