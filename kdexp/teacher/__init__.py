"""The teacher: anything that answers a split."""
