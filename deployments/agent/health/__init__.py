"""Health checks: one file a kind."""
