def bench() -> None:
    """Placeholder until bench lands."""
