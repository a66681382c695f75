"""The files of a run: its directory, journal, figures."""
