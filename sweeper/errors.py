"""The one error type that reaches users as a message without a traceback."""


class SweeperError(Exception):
    """Wrong input or a state the user must mend; the message says what was found, expected and to do."""
