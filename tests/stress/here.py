"""What a machine does not give."""


class NotHere(Exception):
    """A scene needs what this machine does not give; says what."""
