"""Runtimes: how a release becomes something that runs. One file a kind."""
