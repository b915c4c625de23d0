"""The program on the target: dials out, stages, activates, watches and reports. Never Django."""

__version__ = "0.1.0"
