"""A cell's code for its reviewers: what it does, in plain words."""
