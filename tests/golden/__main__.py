"""See `tests.golden`."""

from tests.golden import main

raise SystemExit(main())
