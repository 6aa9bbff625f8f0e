"""How the results and figures of README.md and docs/ come about."""
