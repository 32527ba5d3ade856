"""FeatureSet: the stored features of one key with the labels, ids and splits that belong to them, read lazily."""
