"""The `tokenry` command: thin, no logic of its own."""
