"""A learned augmenter: a VAE-GAN that is trained first, frozen, and then used to make type-preserving copies.

Source of the objective: Marghi, Gala and Sumbul, "Mixture representation learning with coupled autoencoders" (arXiv
2007.09880), on type-preserving augmentation; the combination of an autoencoder with a discriminator is that of Larsen
et al. (2016). The generator G encodes a cell x as q(z|x) and decodes z together with Gaussian noise n:

    x_0 = G(z, 0)   the noise-free copy,        x_n = G(z, n)   a noisy copy,        z ~ q(z|x),  n ~ N(0, I)

    min over G, max over D of   V(D, G) - R(G) + T_alpha(G) + gamma d(G)

with the adversarial value V over x, x_0 and x_n, the log-likelihood R of x under the noise-free copy, the triplet term
T_alpha, without which the decoder could ignore the noise, and the divergence d between q(z|x_n) and q(z|x), which keeps
the latent code of the copy close to that of the cell.

Differences from the public MMIDAS code: the noise is an input of the decoder, so that d compares the posterior of the
re-encoded copy with that of the cell (in augmentation/udagan.py it is an input of the last hidden layer of the
encoder); D has an R1 penalty; R and T have weights. That copies keep the zeros of the cell is an option there too, for
generated copies (MMIDAS_LC-NE, vaegan.py); here it applies in training as well.
"""
