# make run         the main job on the embedded sample: build/figures, build/report/index.html and a table
# make test        every test
# make lab         JupyterLab on the notebooks
# make preflight   is this machine ready for a workshop?
# make docs        the book: build/docs/index.html
# make figures     the same as run, and refresh the committed figures/
# make notebooks   execute the notebooks and rewrite the .ipynb files
# make coverage    the tests, and which lines of nbkit they run
# make clean       remove .venv, build and cache
# make run PRESET=treebank DATA=../shared/data   the same on a real corpus
# make run TEXTS="films.csv wiki.txt"            your own texts: files, folders, patterns; also COLUMN=review
#                                                (of the texts), BY=shop (one file cut by a column), MODEL=...,
#                                                GENERATORS="topics smollm2"
# Without make: python tools/make.py run --preset treebank --data ../shared/data

PYTHON ?= python3
COMMANDS := run figures lab preflight notebooks test coverage docs clean

.PHONY: $(COMMANDS)

# What is given on make's command line (PRESET, DATA, VENV) reaches the tool through the environment.
$(COMMANDS):
	@TYPED_FROM="$(PWD)" $(PYTHON) tools/make.py $@
