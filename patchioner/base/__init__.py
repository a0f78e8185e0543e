"""The ground floor, shared by every package: errors, registries, files, weights (which pull in torch) and progress."""
