"""Losses and terms, usable alone."""
