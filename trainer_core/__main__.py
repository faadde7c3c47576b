"""`python -m trainer_core`: the command line."""

import os
import sys

from trainer_core.cli.commands import main
from trainer_core.system import proxies

if __name__ == "__main__":
    os.environ.update(proxies.proxy_changes(os.environ))
    sys.exit(main())
