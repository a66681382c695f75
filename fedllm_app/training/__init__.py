"""Local training: one file a task, the trainer they share, and the corrections of gradients."""
