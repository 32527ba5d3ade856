"""Objects by key: in a local folder, or in S3, Google Cloud Storage or Azure."""
