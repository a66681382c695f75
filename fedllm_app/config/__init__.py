"""The typed configuration of a run, checked as a whole before anything is loaded."""
