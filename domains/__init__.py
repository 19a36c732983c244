"""What the shared application learns to do: one folder per domain, none of which imports another."""
