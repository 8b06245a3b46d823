"""A teacher behind an OpenAI-compatible chat endpoint."""
