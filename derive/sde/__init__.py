"""What is true of a diffusion: its equations, closed forms, numbers, and what is refused."""
