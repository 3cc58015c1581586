"""Networks that segment whole images, trained on labels of an ensemble."""
