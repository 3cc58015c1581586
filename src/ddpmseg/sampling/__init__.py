"""Images drawn from a diffusion model and labelled by a finished run."""
