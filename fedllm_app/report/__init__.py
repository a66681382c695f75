"""The report of runs: gathered from their directories, written as a page, as Markdown and as CSV."""
