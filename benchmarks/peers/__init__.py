"""The same agents in one process: as a plain loop, and with the libraries TorchRL and RLlib."""
