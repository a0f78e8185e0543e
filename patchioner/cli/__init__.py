"""The command line: `patchioner caption PHOTO ...`.

Knows: arguments, photos on disk, standard output and standard error. Does not know: how captions
are made; it calls the public API like any other user.
"""
