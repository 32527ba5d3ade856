"""The sections of the report's page, one a file: each a function from the material to a section, or to None."""
