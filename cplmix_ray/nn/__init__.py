"""Neural network layers with a leading arm axis, rows of a minibatch, image moments, Adam.

Names of tensors end in their axes:

    a  arms of this worker              s  sets of weights: one for each arm, or one that all arms share
    n  cells of the minibatch           m  cells of a block of it
    g  genes or pixels                  o  outputs of a layer; in the last one heads x genes
    h  hidden units                     i  inputs of a layer
    k  categories                       d  dimensions of the state
    b  units of the bottleneck          1  an axis of length one
    y, x  rows and columns of an image  2, 3, ...  an axis of that length
"""
