"""The pure decisions of the control plane: accounts, strike windows and the plan."""
