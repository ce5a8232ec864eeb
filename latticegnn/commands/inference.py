"""A trained lattice put to use."""

from __future__ import annotations

from latticegnn.commands.parsing import command_parser, parsed


def predict(arguments: list[str]) -> int:
    """Predict with a trained lattice; JSON lines, or a matrix of embeddings."""
    from latticegnn.inference import command

    parser = command_parser("predict", "Predict with a trained lattice.")
    command.add_predict_arguments(parser)
    return command.predict(parsed(parser, arguments))


def index(arguments: list[str]) -> int:
    """Embed answers by a model's teacher, for `predict --as answers --answers FOLDER`; the folder is printed."""
    from latticegnn.inference import command

    parser = command_parser("index", "Embed answers that a trained lattice chooses from.")
    command.add_index_arguments(parser)
    return command.index(parsed(parser, arguments))


def serve(arguments: list[str]) -> int:
    """Answer requests over HTTP by a trained model, until SIGINT or SIGTERM."""
    from latticegnn.service import Limits, run
    from latticegnn.training.errors import config_files, read_mapping

    parser = command_parser("serve", "Answer requests over HTTP by a trained model. See docs/serve.md.")
    parser.add_argument("--config", action="config", help="YAML file with any of these settings.")
    parser.add_function_arguments(run, skip={"limits", "trust_code"})
    parser.add_argument("--trust_code", action="store_true", help="Run code that comes with the model or its teacher.")
    parser.add_class_arguments(Limits, "limits")
    for file in config_files(arguments):
        read_mapping(file)  # the parser's own words for a file that cannot be read are no help
    settings = parsed(parser, arguments)
    del settings["config"]
    run(**settings)
    return 0
