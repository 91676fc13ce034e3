from llmbole.cli import main

raise SystemExit(main())
