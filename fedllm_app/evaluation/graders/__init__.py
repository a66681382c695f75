"""What an answer is worth where that takes more than a rule: code that is run, a model that judges."""
