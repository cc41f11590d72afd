import sys

from serving_client.cli import main

sys.exit(main())
