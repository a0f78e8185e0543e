"""Describers: photo and regions -> statements. Our own captioner, models of `transformers`, models behind a server.

Knows: how each is asked. Does NOT know: where regions come from, or what becomes of the texts.
"""
