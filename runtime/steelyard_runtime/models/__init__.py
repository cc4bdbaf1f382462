"""Model architectures and checkpoint loaders."""
