"""`python -m deployments.agent`."""

import sys

from deployments.agent.main import main

if __name__ == "__main__":
    sys.exit(main())
