"""The one exception of this package."""


class ServerError(Exception):
    """A server could not be had; the text is one sentence for the person who asked for it."""
