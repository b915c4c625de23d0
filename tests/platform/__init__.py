"""The platform: environment, queue, local processes."""
