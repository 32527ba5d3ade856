"""Byte strings by name, in a local folder or in S3, Google Cloud Storage or Azure."""
