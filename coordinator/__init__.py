"""Around the nodes: the collector, the runtimes, the commands and the reports."""
