"""Studies: named sets of runs that answer one question."""
