# Everything runs in a virtual environment: `make env VENV=/somewhere` sets its folder.
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
# The tests that most changes need, in under 3 minutes on 2 cores.
QUICK := $(addprefix tests/,test_hygiene.py test_docs.py test_project_files.py test_metafiles.py test_makefile.py \
    test_models/test_backbone.py test_models/test_golden.py test_models/test_plain_modules.py \
    test_ops/test_backends.py test_ops/test_selective_scan.py test_ops/test_conv.py test_ops/test_haar.py \
    test_ops/test_norm_gate.py test_recipes/test_schedules.py test_utils)
DEMO_CONFIG := configs/retinanet/retinanet_mobilemamba-t2_fpn_2e_digits.py
BEST = $$(ls -t "$(WORK)"/best_coco_bbox_mAP_epoch_*.pth | head -n 1)
START_CONFIG := configs/mobilemamba/mobilemamba-t2_1xb64-1e-pretrain_digits-64px.py

# Paths may contain spaces. They are quoted wherever they are used, and never passed to make's functions and targets,
# which split names at spaces.
bin_of = $(if $(filter /%,$(1)),,$(CURDIR)/)$(1)/bin
BIN := $(call bin_of,$(VENV))
LINT := $(call bin_of,$(LINT_VENV))
DOCS := $(call bin_of,$(DOCS_VENV))
DIST := $(call bin_of,$(DIST_VENV))
# Create an environment from requirements/NAME.txt: $(call make_venv,folder,NAME). Recreated if that file is newer.
make_venv = @[ "$(1)/.made" -nt requirements/$(2).txt ] || { set -x; \
    $(PYTHON) -m venv --clear "$(1)" && \
    "$(call bin_of,$(1))/python" -m pip install -q --disable-pip-version-check -r requirements/$(2).txt && \
    touch "$(1)/.made"; }
MIM := PATH="$(BIN):$$PATH" "$(BIN)/mim"

.PHONY: help env test quick test-deploy test-projects lint-env lint format docs-env docs docs-links dist-env dist data \
    demo train-demo test-demo zoo-demo clean

help:
	@echo "make demo    set up, make the data, train a small classifier and a detector that starts from it, test it,"
	@echo "              draw its predictions and export it (about 10 min after set-up)"
	@echo "make zoo-demo  the same for every task of the paper, one after the other (1 to 2 hours)"
	@echo "              (TASKS='retinanet sem_fpn' runs some of them, with what they need)"
	@echo "make data    generate only the data (OVERWRITE=--overwrite replaces data of an older version)"
	@echo "make test    set up and run the test suite (JOBS=$(JOBS) processes, each with up to 4 GiB)"
	@echo "make quick   run the tests that most changes need (under 3 minutes)"
	@echo "make test-deploy  export everything there is and run it in every runtime and a browser (25 minutes)"
	@echo "make test-projects  test the recipes for mmpose, mmocr, mmaction2 and mmrotate, each in a separate environment"
	@echo "              (PROJECTS='mmpose mmocr' selects some of them)"
	@echo "make env     only set up (VENV=$(VENV))"
	@echo "              (VERSIONS=torch2.1 uses versions from requirements/versions in a separate environment,"
	@echo "              FORKS=1 the onedl forks of OpenMMLab; both work with every target)"
	@echo "make lint    run ruff and mypy, in a separate environment that takes seconds (LINT_VENV=$(LINT_VENV))"
	@echo "make format  fix what ruff can fix automatically"
	@echo "make docs    build the documentation site in build/docs/html, in a separate environment (2 minutes);"
	@echo "              make docs-links checks its links to other sites"
	@echo "make dist    build and check the source archive and a wheel, in dist"

env:
	@$(PYTHON) tools/misc/setup_env.py "$(VENV)" $(if $(VERSIONS),--versions "$(VERSIONS)")

test: env  # without a GPU, as the tests assert the behaviour without one; one core per process
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -n $(JOBS) --dist loadfile

quick: env
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -n $(JOBS) --dist loadfile $(QUICK)

test-deploy: env  # tests that need missing programs (Chromium, npm) are skipped with the reason
	"$(BIN)/python" -m pip install -q -c requirements/pinned.txt selenium $(DEPLOY:%=-r requirements/deploy-%.txt)
	@# ExecuTorch requires an older scikit-learn, which is not used here.
	"$(BIN)/python" -m pip install -q --no-deps -r requirements/deploy-executorch.txt parameterized ruamel.yaml
	"$(BIN)/python" -m pip install -q --no-deps mmdeploy==1.3.1 aenum dill grpcio multiprocess prettytable
	-"$(BIN)/python" tools/deployment/web/serve.py --fetch
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -n $(JOBS) --dist loadfile --durations 20 -m deploy tests/test_deployment

test-projects: env  # a project that cannot be installed is reported and skipped
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

docs: docs-env  # from scratch, so that all warnings appear; each is an error
	rm -rf build/docs docs/repository
	"$(DOCS)/sphinx-build" -q -W --keep-going -j auto -d build/docs/doctrees docs build/docs/html
	@echo "build/docs/html/index.html"

docs-links: docs-env  # checks links to other sites
	"$(DOCS)/sphinx-build" -q -b linkcheck -j auto -d build/docs/doctrees docs build/docs/links

dist-env:
	$(call make_venv,$(DIST_VENV),dist)

dist: dist-env
	rm -rf dist
	"$(DIST)/python" -m build
	@# Tagged with the oldest C library that the kernels support, as PyPI requires.
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
	    --checkpoint "$(BEST)"

demo: train-demo
	@$(MAKE) --no-print-directory test-demo
	"$(BIN)/python" tools/analysis_tools/draw_predictions.py $(DEMO_CONFIG) "$(WORK)/predictions.pkl" "$(WORK)/pictures" \
	    --score-thr 0.5
	@# For the page in the browser, which offers what is there.
	mkdir -p "$(WORK)/samples"
	cp data/digits_scenes/coco/val/00000[1-4].png "$(WORK)/samples"
	"$(BIN)/python" tools/deployment/export.py $(DEMO_CONFIG) "$(BEST)" "$(WORK)/samples/digits.onnx"

zoo-demo: env
	"$(BIN)/python" tools/misc/zoo_demo.py --work-dir work_dirs/zoo $(if $(TASKS),--tasks $(TASKS))

clean:
	rm -rf build dist *.egg-info docs/repository mmmobilemamba/.mim "$(VENV)/.steps/project"
