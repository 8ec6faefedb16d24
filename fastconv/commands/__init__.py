"""What `python -m fastconv` can do: one module a command, as `fastconv._cli.add_commands` takes it."""
