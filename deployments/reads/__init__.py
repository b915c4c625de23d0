"""What pages and API show: named reads, each in a constant number of queries, each through `access`."""
