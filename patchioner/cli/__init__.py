"""The command line, `patchioner VERB ...`: one file a verb, each a client of the public API."""
