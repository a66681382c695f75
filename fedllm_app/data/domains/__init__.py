"""The domains of the demo's corpus, one file each: their tasks, and ways to ask them."""
