"""Models with their own tokenizers."""
