"""One module per step of a run; each reads the run's settings and leaves its result in the work folder."""
