"""What one site does: its data, its local training and evaluation, its progress."""
