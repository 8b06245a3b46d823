"""The student, and what is trained beside it."""
