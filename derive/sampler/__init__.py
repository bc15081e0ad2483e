"""A sampler as it is written, bound to a diffusion; what the name of a network means."""
