"""Code that every tickfleet service shares; it imports no service."""
