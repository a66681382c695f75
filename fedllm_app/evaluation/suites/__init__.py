"""The suites by name. To add one, write a file with `SUITE` here and name it in `SUITES`; a user's own stands anywhere."""

SUITES = (
    "general",
    "finance",
    "medical",
    "math",
    "code",
    "alignment",
    "flowertune-general",
    "flowertune-finance",
    "flowertune-medical",
)
"""Each stands in the file of its name, with underscores."""
