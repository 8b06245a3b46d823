"""Tasks: splits of text and labels, and the kind of answer they ask for."""
