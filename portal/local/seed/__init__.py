"""A database full of plausible rows, the same for the same arguments: for measurements and for looking at."""
