"""The process of an AP: its actor, transport, checkpoints, and the faults of a fault plan."""
