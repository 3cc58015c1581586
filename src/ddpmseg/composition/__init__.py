"""From a composed configuration to checked settings and the parts they describe."""
