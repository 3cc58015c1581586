"""The commands of `weights`, and of backbones held against their contract."""
