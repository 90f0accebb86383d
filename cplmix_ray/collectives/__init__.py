"""Process groups, sums over arms and over shards of a minibatch."""
