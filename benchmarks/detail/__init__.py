"""Evaluation of detailed captions: DID-Bench with its controls, and faithfulness to the photo.

Knows: the data files and the public names of `patchioner.detail`. Does NOT know: how captions are made.
"""
