"""The subcommands of `turnout`, one file each: `add_arguments(parser)` and `main(args) -> int`."""
