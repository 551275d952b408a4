"""The owner's tables as computations may see them: read, checked, bounded, and mocked."""
