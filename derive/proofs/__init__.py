"""What is proven of a diffusion, and the coefficients once more in balls."""
