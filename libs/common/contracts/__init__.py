"""What the services say to one another: messages, subjects, streams and their encoding."""
