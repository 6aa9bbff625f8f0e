"""What things cost: run from the repository's root."""
