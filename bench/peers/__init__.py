"""Other ways to do the same rolling update on this machine."""
