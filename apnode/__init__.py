"""One autonomous access point, and the vocabulary that all nodes speak."""
