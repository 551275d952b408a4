"""What a notebook shows besides plain results: budgets, progress, reviews, consents, requests."""
