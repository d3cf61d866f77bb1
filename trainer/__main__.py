"""`python -m trainer run CONFIG.json` trains once; `python -m trainer serve` trains run after run.

Both write events to stdout, one JSON object a line. CONFIG.json holds TrainConfig's values, nested; what it
leaves out keeps its default.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from trainer import serve


def main() -> int:
    """Parse the command line and run; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m trainer", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train once")
    run.add_argument("config", type=Path, help="a JSON file with TrainConfig's values")
    commands.add_parser("serve", help="requests on stdin, events on stdout")
    arguments = parser.parse_args()
    if arguments.command == "serve":
        serve.serve()
        return 0
    try:
        values = json.loads(arguments.config.read_text())
    except (OSError, ValueError) as error:
        parser.error(f"cannot read {arguments.config}: {error}")
    return serve.run_file(values)


if __name__ == "__main__":
    sys.exit(main())
