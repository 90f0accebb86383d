"""K-means ensembles and merging of categories."""
