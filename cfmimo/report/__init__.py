"""What is drawn from a run: figures, maps and pages."""
