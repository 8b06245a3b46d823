"""The kinds of task: what a label is, and everything that follows from that."""
