"""A function that costs nothing, and imports nothing: what is left is what it costs to call one."""


def nothing() -> None:
    """Nothing, with success."""
