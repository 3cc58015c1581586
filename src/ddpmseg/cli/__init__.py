"""The command line: modules of commands with their options. What a command does lies elsewhere."""
