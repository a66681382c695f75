"""What is trained: its layout as one packed vector, its place in a model, and its files."""
