"""One file per peer: the same quantities, through its own interface as it advises."""
