"""MLflow: nothing outside of this package imports it."""
