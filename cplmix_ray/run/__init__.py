"""A run from cells to results: its folder, its records, the trained model, the annotated cells."""
