"""Cooperation beyond an AP's own partners: who is in a cluster, and how its members learn of one another."""
