"""Live models and what prompts ask of them."""
