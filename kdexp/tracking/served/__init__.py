"""A logged student in use: what travels with it, and imports nothing of kdexp."""
