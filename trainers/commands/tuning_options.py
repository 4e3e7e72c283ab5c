"""Options of the commands that come before a long training."""

from typing import Any

from trainers.commands.options import add_command, local_path, place
from trainers.commands.training_options import add_training_options

_MODULE = "trainers.commands.tuning_commands"


def _add_preflight(commands: Any) -> None:
    parser = add_command(
        commands, _MODULE, "preflight", "Find what would go wrong in a long training", "prepared dataset"
    )
    add_training_options(parser)
    parser.add_argument("--trial-steps", type=int, default=15, metavar="N", help="steps on one batch (default 15)")


def _add_tune(commands: Any) -> None:
    parser = add_command(commands, _MODULE, "tune", "Search for better values of a recipe", "prepared dataset")
    add_training_options(parser)
    parser.add_argument(
        "--out", type=local_path, required=True, metavar="DIR", help="directory of the search, to go on in"
    )
    parser.add_argument(
        "--trials", type=int, default=20, metavar="N", help="trainings, ended early or not (default 20)"
    )
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="begin no further trial after so long")
    parser.add_argument(
        "--metric", choices=("AP50", "AP", "loss"), default="AP50", help="what is to become better (default AP50)"
    )
    parser.add_argument(
        "--evaluate-split", default="validation", metavar="SPLIT", help="split to judge by (default validation)"
    )
    parser.add_argument(
        "--evaluations", type=int, default=4, metavar="N", help="of a trial, after each of which it may end (default 4)"
    )
    space = parser.add_mutually_exclusive_group()
    space.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="NAME=VALUES",
        help="what to vary, again for more: learning_rate=1e-4..1e-2, batch_size=4,8,16, augment=true,false (default: "
        "what is usual for the recipe)",
    )
    space.add_argument("--space", type=place, metavar="FILE", help="the same as a YAML file of NAME: VALUES")


ADD_COMMANDS = (_add_preflight, _add_tune)
