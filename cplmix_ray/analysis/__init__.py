"""Tables from trained models: expected expression, counterfactuals, differential expression."""
