"""Pure building blocks for surviving failures: backoff and its relatives."""
