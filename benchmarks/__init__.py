"""One file per claim, each with its baseline beside it; `make bench` runs them all."""
