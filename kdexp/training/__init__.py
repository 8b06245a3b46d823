"""The distillation loop; usable without the command line."""
