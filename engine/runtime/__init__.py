"""Services for every part of the engine: the machine's abilities, its threads and memory, and Ray."""
