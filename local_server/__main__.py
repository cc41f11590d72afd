import sys

from local_server.cli import main

sys.exit(main())
