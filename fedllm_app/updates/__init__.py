"""What happens to a client's update between training and sending, and to it on the server: one file a step, one table."""
