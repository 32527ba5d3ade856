"""What people type: parse, call one engine function, print."""
