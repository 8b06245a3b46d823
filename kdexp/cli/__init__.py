"""The command line: it alone knows Hydra, OmegaConf and exit codes."""
