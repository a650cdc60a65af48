"""The revisions; each one says what it adds and why."""
