"""A learned augmenter: a VAE-GAN that is trained first, frozen, and then makes type-preserving copies.

Source of the objective: Marghi, Gala and Sumbul, "Mixture representation learning with coupled autoencoders" (arXiv
2007.09880), on type-preserving augmentation; the adversarial pairing of an autoencoder with a discriminator is that of
Larsen et al. 2016. The generator G encodes a cell x as q(z|x) and decodes z beside Gaussian noise n:

    x_0 = G(z, 0)   the noise-free copy,        x_n = G(z, n)   a noisy copy,        z ~ q(z|x),  n ~ N(0, I)

    min over G, max over D of   V(D, G) - R(G) + T_alpha(G) + gamma d(G)

with the adversarial value V over x, x_0 and x_n, the log-likelihood R of x under the noise-free copy, the triplet term
T_alpha, which keeps the noise from being ignored, and the divergence d between q(z|x_n) and q(z|x), which keeps it from
changing what the code says of the cell.

What is ours: the noise enters the decoder, so that d compares the posterior of the re-encoded copy with the cell's (in
public MMIDAS code, augmentation/udagan.py, it enters the encoder's last hidden layer); R1 on D; weights for R and T.
That copies may keep a cell's zeros is an option there too (MMIDAS_LC-NE, vaegan.py), when copies are drawn; here it
holds in training as well.
"""
