"""Server strategies: one algorithm a file, one table of names (registry.py).

A strategy sees one packed float32 vector per client and the metrics beside it. It knows Flower and NumPy,
and nothing of language models.
"""
