"""The embedded sample: corpora, their descriptors and a treebank, all written for the kit (README.md).

``texts.load("sample:reviews")`` reads one of them. Your own files are read by ``texts.load("my.csv")``.
"""
