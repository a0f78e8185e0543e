"""The ground floor, shared by every package: errors, registries, files, weights and progress.

Each part is imported by its own name; `weights` and `inference` pull in torch, the others do not.
"""
