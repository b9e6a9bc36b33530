# Everything runs in a virtual environment of its own: `make env VENV=/somewhere` puts it elsewhere.
PYTHON ?= python3
FORKS ?=
VERSIONS ?= $(if $(FORKS),forks)
VENV ?= .venv$(if $(VERSIONS),-$(VERSIONS))
LINT_VENV ?= .venv-lint
DOCS_VENV ?= .venv-docs
DIST_VENV ?= .venv-dist
WORK ?= work_dirs/demo
OVERWRITE ?=
TASKS ?=
PROJECTS ?=
JOBS ?= 2
DEPLOY := ncnn mnn openvino litert coreml
# What most changes need, in under 3 minutes on 2 cores.
QUICK := $(addprefix tests/,test_hygiene.py test_docs.py test_project_files.py test_metafiles.py test_makefile.py \
    test_models/test_backbone.py test_models/test_golden.py test_models/test_plain_modules.py \
    test_ops/test_backends.py test_ops/test_selective_scan.py test_ops/test_conv.py test_ops/test_haar.py \
    test_ops/test_norm_gate.py test_recipes/test_schedules.py test_utils)
DEMO_CONFIG := configs/retinanet/retinanet_mobilemamba-t2_fpn_2e_digits.py
START_CONFIG := configs/mobilemamba/mobilemamba-t2_1xb64-1e-pretrain_digits-64px.py

# Paths may have spaces: they are quoted where they are used, and make's own functions and targets, to which a
# space ends a name, take none of them.
bin_of = $(if $(filter /%,$(1)),,$(CURDIR)/)$(1)/bin
BIN := $(call bin_of,$(VENV))
LINT := $(call bin_of,$(LINT_VENV))
DOCS := $(call bin_of,$(DOCS_VENV))
DIST := $(call bin_of,$(DIST_VENV))
# An environment with what requirements/NAME.txt pins: $(call make_venv,folder,NAME). It is made again when the pins are newer.
make_venv = @[ "$(1)/.made" -nt requirements/$(2).txt ] || { set -x; \
    $(PYTHON) -m venv --clear "$(1)" && \
    "$(call bin_of,$(1))/python" -m pip install -q --disable-pip-version-check -r requirements/$(2).txt && \
    touch "$(1)/.made"; }
MIM := PATH="$(BIN):$$PATH" "$(BIN)/mim"

.PHONY: help env test quick test-deploy test-projects lint-env lint format docs-env docs docs-links dist-env dist data \
    demo train-demo test-demo zoo-demo clean

help:
	@echo "make demo    set up, make the data, train a small classifier and a detector that starts from it, test it and"
	@echo "              draw its predictions (about 10 min after set-up)"
	@echo "make zoo-demo  the same for every task of the paper, one after the other (1 to 2 hours)"
	@echo "              (TASKS='retinanet sem_fpn' runs some of them, with what they need)"
	@echo "make data    make the data alone (OVERWRITE=--overwrite replaces what an older version has made)"
	@echo "make test    set up and run the test suite (JOBS=$(JOBS) files at a time, each with up to 4 GiB)"
	@echo "make quick   the tests that most changes need (under 3 minutes)"
	@echo "make test-deploy  export everything there is and run it in every runtime and a browser"
	@echo "make test-projects  the recipes for mmpose, mmocr, mmaction2 and mmrotate, each in an environment of its own"
	@echo "              (PROJECTS='mmpose mmocr' tests some of them)"
	@echo "make env     the set-up alone (VENV=$(VENV))"
	@echo "              (VERSIONS=torch2.1 takes other versions, of requirements/versions, in an environment of"
	@echo "              their own, FORKS=1 the onedl forks of OpenMMLab; the same for every other target)"
	@echo "make lint    ruff and mypy, in an environment of their own that takes seconds (LINT_VENV=$(LINT_VENV))"
	@echo "make format  what ruff can mend by itself"
	@echo "make docs    the documentation as a site, in build/docs/html, with an environment of its own (2 minutes);"
	@echo "              make docs-links checks its links to other sites"
	@echo "make dist    the source archive and a wheel, in dist, checked"

env:
	@$(PYTHON) tools/misc/setup_env.py "$(VENV)" $(if $(VERSIONS),--versions "$(VERSIONS)")

test: env  # without a GPU, as what they assert is what happens then; a core for each process
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -n $(JOBS) --dist loadfile

quick: env
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -n $(JOBS) --dist loadfile $(QUICK)

test-deploy: env  # what is missing for a part of it (Chromium, npm) is named as the reason of a skipped test
	"$(BIN)/python" -m pip install -q -c requirements/pinned.txt selenium $(DEPLOY:%=-r requirements/deploy-%.txt)
	@# ExecuTorch asks for an older scikit-learn, which it does not use here.
	"$(BIN)/python" -m pip install -q --no-deps -r requirements/deploy-executorch.txt parameterized ruamel.yaml
	"$(BIN)/python" -m pip install -q --no-deps mmdeploy==1.3.1 aenum dill grpcio multiprocess prettytable
	-"$(BIN)/python" tools/deployment/web/serve.py --fetch
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -n $(JOBS) --dist loadfile --durations 20 -m deploy tests/test_deployment

test-projects: env  # a project that cannot be installed is named and left out
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 "$(BIN)/python" tools/misc/project_tests.py "$(VENV)" "$(VENV)-projects" $(PROJECTS)

lint-env:
	$(call make_venv,$(LINT_VENV),lint)

lint: lint-env
	"$(LINT)/ruff" check .
	"$(LINT)/ruff" format --check .
	"$(LINT)/mypy"

format: lint-env
	"$(LINT)/ruff" check --fix .
	"$(LINT)/ruff" format .

docs-env:
	$(call make_venv,$(DOCS_VENV),docs)

docs: docs-env  # from nothing, so that every warning comes up, and any is an error
	rm -rf build/docs docs/repository
	"$(DOCS)/sphinx-build" -q -W --keep-going -j auto -d build/docs/doctrees docs build/docs/html
	@echo "build/docs/html/index.html"

docs-links: docs-env  # to other sites
	"$(DOCS)/sphinx-build" -q -b linkcheck -j auto -d build/docs/doctrees docs build/docs/links

dist-env:
	$(call make_venv,$(DIST_VENV),dist)

dist: dist-env
	rm -rf dist
	"$(DIST)/python" -m build
	@# With the oldest C library that the kernels run on, as PyPI asks for it.
	@for wheel in dist/*-linux_*.whl; do [ ! -e "$$wheel" ] || { \
	    PATH="$(DIST):$$PATH" "$(DIST)/auditwheel" repair -w dist "$$wheel" && rm "$$wheel"; } || exit 1; done
	"$(DIST)/python" tools/misc/check_wheel.py dist/*.whl
	"$(DIST)/twine" check --strict dist/*

data: env
	"$(BIN)/python" tools/dataset_converters/digits_scenes.py data/digits_scenes $(OVERWRITE)

train-demo: data
	@rm -f "$(WORK)"/best_coco_bbox_mAP_epoch_*.pth
	$(MIM) train mmpretrain $(START_CONFIG) --gpus 0 --work-dir "$(WORK)/classifier"
	$(MIM) train mmdet $(DEMO_CONFIG) --gpus 0 --work-dir "$(WORK)" \
	    --cfg-options "model.backbone.init_cfg.checkpoint=$(WORK)/classifier/epoch_1.pth"

test-demo:
	$(MIM) test mmdet $(DEMO_CONFIG) --gpus 0 --work-dir "$(WORK)" --out "$(WORK)/predictions.pkl" \
	    --checkpoint "$$(ls -t "$(WORK)"/best_coco_bbox_mAP_epoch_*.pth | head -n 1)"

demo: train-demo
	@$(MAKE) --no-print-directory test-demo
	"$(BIN)/python" tools/analysis_tools/draw_predictions.py $(DEMO_CONFIG) "$(WORK)/predictions.pkl" "$(WORK)/pictures" \
	    --score-thr 0.5

zoo-demo: env
	"$(BIN)/python" tools/misc/zoo_demo.py --work-dir work_dirs/zoo $(if $(TASKS),--tasks $(TASKS))

clean:
	rm -rf build dist *.egg-info docs/repository mmmobilemamba/.mim "$(VENV)/.steps/project"
