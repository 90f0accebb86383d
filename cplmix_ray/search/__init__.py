"""A search over settings: what is varied, what a trial does, what comes out. Knows no Ray of its own."""
