"""Process groups, sums over units, and averages over the shards of a minibatch."""
