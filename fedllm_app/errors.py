"""The base class of the errors that a user can act on: the command line prints them as a sentence, without a
traceback. At a site, whose errors travel to the server, they have a second form without anything of the site's."""


class UserError(ValueError):
    """Something that the user can put right. The message says what is wrong and what to do.

    Attributes
    ----------
    public : str | None
        What may leave a site: kinds, counts, line numbers and keys of the configuration; no value of a row, no name of
        a column or file, no path. A class gives a sentence for all its errors, a `raise` a better one. None where there
        is no such form; then only the kind of the error leaves.
    shareable : bool
        Whether the messages of a class are such a form themselves.
    """

    public: str | None = None
    shareable: bool = False

    def __init__(self, message: str = "", *, public: str | None = None) -> None:
        super().__init__(message)
        if public is not None or self.shareable:
            self.public = message if public is None else public
