"""A model as a server that writes behind many prompts at once."""
