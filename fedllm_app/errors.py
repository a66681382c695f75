"""The base class of the errors that a user can act on: the command line prints them as a sentence, without a
traceback. At a site, whose errors travel to the server, they have a second form without anything of the site's."""


class UserError(ValueError):
    """Something that the user can put right. The message says what is wrong and what to do.

    Attributes
    ----------
    public : str | None
        What may leave a site: kinds, counts, line numbers and keys of the configuration; no value of a row, no name of
        a column or file. None where the message has no such form; then only the kind of the error leaves.
    """

    public: str | None = None

    def __init__(self, message: str = "", *, public: str | None = None) -> None:
        super().__init__(message)
        if public is not None:
            self.public = public
