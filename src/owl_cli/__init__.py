"""The `owl` command. Nothing here loads torch until a subcommand runs."""
