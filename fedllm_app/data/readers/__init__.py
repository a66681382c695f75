"""Readers of data files, one module a format: `csv`, `json`, `arrow` (and Parquet); `files` chooses among them.

`folders` says which files of a folder are read, `text` how bytes become text.
"""
