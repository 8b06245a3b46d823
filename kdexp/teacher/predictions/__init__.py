"""A teacher that is a file of answers."""
