"""How fast a training step is, against a plain implementation and against what the machine can do."""
