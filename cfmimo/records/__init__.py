"""What is on disk: run folders, agents, held-out evaluations."""
