"""What the command line does: a file for each command, whose function takes a config and a console and returns the exit code."""
