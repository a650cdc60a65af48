"""The pure decisions of ingest: what to ask the broker for, where a packet goes, why it ended."""
