"""The command cfmimo."""
