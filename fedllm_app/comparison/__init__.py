"""Comparisons: a grid of runs, each a cell, evaluated together; one table, one figure."""
