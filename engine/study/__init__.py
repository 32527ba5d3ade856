"""Studies: datasets x backbones x settings from one YAML, planned first, resumed after anything."""
