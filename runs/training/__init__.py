"""How the shipped weights were made: the steps of a full run need the `train` extra.

`patchioner.adaptation` borrows the cleaning of sentences (`corpus`) and the noise (`gap`); nothing else imports it.
"""
