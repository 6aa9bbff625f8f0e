"""Nature: where things are, how radio propagates, what users receive."""
