"""What every part of the engine runs on: the machine, its threads and its memory, and Ray."""
