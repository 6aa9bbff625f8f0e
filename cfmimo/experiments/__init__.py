"""What is done with a network: runs, comparisons, training, the seed paper's figures."""
