"""The command line: each verb parses its options, calls one engine function and prints the result."""
