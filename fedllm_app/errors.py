"""The base class of the errors that a user can act on: the command line prints them as a sentence, without a
traceback."""


class UserError(ValueError):
    """Something that the user can put right. The message says what is wrong and what to do."""
