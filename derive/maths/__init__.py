"""Numbers and expressions: it knows no diffusion."""
