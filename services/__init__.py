"""The processes of the fleet, one package each; they never import one another."""
