"""Parsers that report a mistake in one line."""

from __future__ import annotations

from typing import Any


def command_parser(command: str, description: str) -> Any:
    """Return a parser for a command."""
    from latticegnn.training.errors import OneLineParser

    return OneLineParser(prog=f"latticegnn {command}", description=description)


def lattice_parser(command: str, description: str) -> Any:
    """Return a parser that also takes a lattice and its ports."""
    from latticegnn.lattice import LatticeSpec, Ports

    parser = command_parser(command, description)
    parser.add_class_arguments(LatticeSpec, "spec")
    parser.add_class_arguments(Ports, "inputs", default=Ports(face="z-"))
    parser.add_class_arguments(Ports, "outputs", default=Ports(face="z+"))
    return parser


def parsed(parser: Any, arguments: list[str]) -> Any:
    """Parse a command's arguments and build what they describe."""
    return parser.instantiate(parser.parse_args(arguments))
