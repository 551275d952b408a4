"""A site's part in federated runs: what it joins, gives under masks, and remembers."""
