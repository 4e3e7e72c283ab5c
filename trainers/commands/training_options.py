"""Options of the commands that train and predict."""

import argparse
from typing import Any

from trainers.commands.options import METHODS, MODES, add_command, add_task_runner, place

_MODULE = "trainers.commands.training_commands"


def _add_verify_loader(commands: Any) -> None:
    parser = add_command(
        commands, _MODULE, "verify-loader", "Prove on a dataset what the loader promises", "prepared dataset"
    )
    parser.add_argument("--split", help="split to look at (default: every one)")
    parser.add_argument("--limit", type=int, metavar="N", help="look at the first N images of a split (default: all)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="images of a batch (default 8)")
    parser.add_argument(
        "--world-sizes", default="1,2,3,5", metavar="N,...", help="numbers of ranks to share by (default 1,2,3,5)"
    )
    parser.add_argument("--seed", type=int, default=0, help="decides the order, and the steps to resume at (default 0)")


def _add_train(commands: Any) -> None:
    parser = add_command(commands, _MODULE, "train", "Train a detector", "prepared dataset")
    add_training_options(parser)
    parser.add_argument("--out", type=place, required=True, metavar="RUN", help="directory of the run")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of RUN")
    parser.add_argument(
        "--preflight",
        action=argparse.BooleanOptionalAction,
        help="look first at what would go wrong (default: before 500 steps or more)",
    )
    _add_watching(parser)


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """What is trained on what: for every command that trains or looks ahead to it."""
    parser.add_argument(
        "--recipe",
        required=True,
        metavar="NAME",
        help="such as dense_cnn_small (another lists all), or recipe.json of tune",
    )
    parser.add_argument("--split", default="train", help="split to train on (default train)")
    parser.add_argument(
        "--steps", type=int, metavar="N", help="optimiser steps, of all stages together (default: the recipe's)"
    )
    parser.add_argument("--epochs", type=float, metavar="N", help="passes over the split, instead of --steps")
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="images a step, of all processes together (default: the recipe's)"
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        metavar="RATE",
        help="the highest; a backbone's and later stages' change in proportion (default: the recipe's)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="decides initial weights and order of images (default 0)"
    )
    parser.add_argument("--weights", metavar="WHERE", help="hub name or directory of a checkpoint to start from")
    parser.add_argument(
        "--augment",
        action="store_true",
        help="change images at random: their size, the part that is shown, their light; of pairs, before they are "
        "compared, both frames alike, the light of each, and how the camera is held",
    )
    _add_how(parser)
    group = parser.add_argument_group("what the detector is shown of pairs and differences (default: the recipe's)")
    group.add_argument(
        "--input",
        choices=("image", "stack", "frames"),
        help="image: the difference; stack: the after frame and the difference; frames: both frames, whose features "
        "a dense_ recipe subtracts and which the others see stacked",
    )
    group.add_argument(
        "--mode", choices=MODES, help="of a dataset of pairs: make this difference on the way, as diff does"
    )
    group.add_argument("--align", choices=METHODS, help="of a dataset of pairs: align the frames first, as diff does")


def _add_how(parser: argparse.ArgumentParser) -> None:
    """What a training computes with."""
    parser.add_argument(
        "--resize",
        metavar="SIZE",
        help="shortest:800:1333 (shortest edge, but the longest at most), longest:640, 480x640 (height, width) or keep "
        "(default: the recipe's)",
    )
    parser.add_argument(
        "--pad", metavar="SIZE", help="pad batches to: largest, multiple:32 or 480x640 (default: the recipe's)"
    )
    parser.add_argument(
        "--accumulate",
        type=int,
        metavar="N",
        help="take the images of a step in N parts, for want of memory: the gradient is that of all at once",
    )
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16 where that is safe")
    parser.add_argument(
        "--ema", type=float, metavar="DECAY", help="evaluate and save a moving average of the weights, such as 0.999"
    )


def _add_watching(parser: argparse.ArgumentParser) -> None:
    """Evaluation while training."""
    group = parser.add_argument_group("evaluation while training (default: none, and the model of the last step)")
    group.add_argument(
        "--evaluate-every", type=int, metavar="N", help="steps from one evaluation to the next; the best model is kept"
    )
    group.add_argument("--evaluate-split", metavar="SPLIT", help="split to evaluate on (default validation)")
    group.add_argument("--best", choices=("AP", "AP50", "loss"), help="what is best (default AP)")
    group.add_argument("--patience", type=int, metavar="N", help="end a stage after N evaluations without a better one")


def _add_predict(commands: Any) -> None:
    parser = add_command(commands, _MODULE, "predict", "Detect objects with a trained run", "prepared dataset")
    parser.add_argument("--run", type=place, required=True, metavar="RUN", help="directory that train wrote")
    parser.add_argument("--out", type=place, required=True, metavar="DIR", help="directory for the predictions")
    parser.add_argument("--split", default="validation", help="split to predict (default validation)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images at once (default: the recipe's)")
    add_task_runner(parser)


ADD_COMMANDS = (_add_verify_loader, _add_train, _add_predict)
