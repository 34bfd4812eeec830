"""The command line: each command parses, builds the object a Python user would, calls one function and prints."""
