"""The embedded sample: corpora, their descriptors and a treebank, all written for the kit (README.md)."""
