"""Federated fine-tuning of language models: one Flower app for simulation and deployment."""
