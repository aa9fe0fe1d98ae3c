"""The command line: one file a command. It parses, calls the API and prints; it computes nothing."""
