"""How the shipped weights were made: the steps of a full run. Needs the `train` extra; nothing else imports it."""
