"""What lies in a folder: its index, and which of its folders are splits and classes."""
