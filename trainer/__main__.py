"""`python -m trainer run CONFIG.json` trains once; `python -m trainer serve` trains run after run.

Both write events to stdout, one JSON object a line. CONFIG.json holds TrainConfig's values, nested; what it
leaves out keeps its default. `torchrun --standalone --nproc-per-node N -m trainer …` shares each run among N devices.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from trainer import distributed, sample, serve


def main() -> int:
    """Parse the command line and run; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m trainer", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train once")
    run.add_argument("config", type=Path, help="a JSON file with TrainConfig's values")
    commands.add_parser("serve", help="requests on stdin, events on stdout")
    sampled = commands.add_parser("sample", help="continue a prompt: a request on stdin, an id a line on stdout")
    sampled.add_argument("checkpoint", type=Path, help="a checkpoint, or the folder of a run's")
    arguments = parser.parse_args()
    if arguments.command == "serve":
        with distributed.joined() as group:
            serve.serve(group)
        return 0
    if arguments.command == "sample":
        return sample.run(arguments.checkpoint)
    try:
        values = json.loads(arguments.config.read_text())
    except (OSError, ValueError) as error:
        parser.error(f"cannot read {arguments.config}: {error}")
    with distributed.joined() as group:
        return serve.run_file(values, group)


if __name__ == "__main__":
    sys.exit(main())
