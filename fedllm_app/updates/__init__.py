"""What happens to a client's update between training and sending, and on the server: one file a step, one table."""
