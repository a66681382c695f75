"""Public test sets, one a file: where the rows are, what is asked, which answer is right. To add one, add a file."""
