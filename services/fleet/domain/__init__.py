"""What a fleet consists of and how its output reads, without any I/O."""
