"""Run studies: datasets x backbones x settings from one YAML file, planned first, resumed after any interruption."""
