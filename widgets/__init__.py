"""What a notebook shows besides plain results: budgets and progress."""
