"""Options of the commands that come before a long training."""

from typing import Any

from trainers.options import add_command
from trainers.training_options import add_training_options

_MODULE = "trainers.tuning_commands"


def _add_preflight(commands: Any) -> None:
    parser = add_command(
        commands, _MODULE, "preflight", "Find what would go wrong in a long training", "prepared dataset"
    )
    add_training_options(parser)
    parser.add_argument("--trial-steps", type=int, default=15, metavar="N", help="steps on one batch (default 15)")


ADD_COMMANDS = (_add_preflight,)
