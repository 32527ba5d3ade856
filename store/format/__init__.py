"""The on-disk format: names, shapes, codecs, checksums and documents of a store."""
