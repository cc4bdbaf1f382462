"""Pure builders: from the resource to the Kubernetes objects that serve it."""
