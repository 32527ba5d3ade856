"""Index a folder, and find which of the folders in it are splits and classes."""
