"""Losses and feature terms, usable alone: `from kdexp.loss.logit import KD`, `from kdexp.loss.terms import Hidden`."""
