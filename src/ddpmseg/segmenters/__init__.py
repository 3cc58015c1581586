"""Networks that segment whole images, trained on the labels of an ensemble."""
