# Thin entry points; `make` alone lists them. Everything is also a command line: kiln --help
#
# Settings are given as in  make model TARGET=grove-v2 DATA='my set/data.yaml'
SETTINGS := TARGET FIRMWARE TASK DATA WEIGHTS MODEL IMGSZ EPOCHS BATCH NAME EXECUTOR GPU REPRODUCIBLE QUANT \
  CAMERA FRAMING LAYERS FORCE REGISTRY TRUST_WEIGHTS CONFIG

# Of `make release` and `make verify` alone.
RELEASE_SETTINGS := KEY BUNDLE PUBLIC_KEY TRUST_BUNDLE

# Of a board that is attached.
BOARD_SETTINGS := PORT ADDRESS

.DEFAULT_GOAL := help
.SUFFIXES:

# Kiln reads them from its own variables. Their text is passed on as it stands: neither make nor
# a shell looks into it. Variables of the same names in the environment are somebody else's.
unexport $(SETTINGS) $(RELEASE_SETTINGS) $(BOARD_SETTINGS)
define take
ifeq "$(origin $(1))" "command line"
export KILN_$(1) := $$(value $(1))
endif
endef
$(foreach setting,$(SETTINGS) $(RELEASE_SETTINGS) $(BOARD_SETTINGS),$(eval $(call take,$(setting))))
$(if $(filter 1,$(V)),$(eval export KILN_VERBOSE := 1))

WORK := $(or $(KILN_HOME),.kiln)
ifneq "$(words $(WORK))" "1"
$(error KILN_HOME must not hold a space: $(WORK))
endif
KILN := $(WORK)/driver/bin/python -m kiln
DEV := $(WORK)/dev/bin
# An environment whose Python has gone from the host is made again.
lost = $(if $(realpath $(1)/bin/python),,lost)

model: $(WORK)/driver/.complete  ## make the model file for TARGET
	@$(KILN) build

explain: $(WORK)/driver/.complete  ## say which steps `make model` would run, and why
	@$(KILN) explain

report: $(WORK)/driver/.complete  ## open the report of the build that these settings ask for
	@$(KILN) report

release: $(WORK)/driver/.complete  ## write the release of TARGET: one archive, signed if KEY= is given
	@$(KILN) release

verify: $(WORK)/driver/.complete  ## build BUNDLE= again from itself alone and compare every file
	@$(KILN) verify

flash: $(WORK)/driver/.complete  ## write the model for TARGET to the attached board, PORT= if there are more
	@$(KILN) flash

monitor: $(WORK)/driver/.complete  ## show what the board at PORT sees on a page; kiln monitor --demo needs none
	@$(KILN) monitor

targets: $(WORK)/driver/.complete  ## list the boards
	@$(KILN) targets

doctor: $(WORK)/driver/.complete  ## check this host: engine, GPU, disk, Python, network, store
	@$(KILN) doctor

images: $(WORK)/driver/.complete  ## make the stage images of the docker executor now
	@$(KILN) images

gc: $(WORK)/driver/.complete  ## remove what no recorded build needs; kiln gc --help has more
	@$(KILN) gc

clean: $(WORK)/driver/.complete  ## remove unfinished jobs and logs
	@$(KILN) clean

test: $(WORK)/dev/.complete  ## run the fast tests, and one real build, in under 10 minutes
	@$(DEV)/python -m pytest -m 'not slow'

test-all: test  ## run all tests, those of the docker executor if an engine answers
	@$(DEV)/python -m pytest -m slow

chaos: $(WORK)/dev/.complete  ## inject 500 faults: kills, full disks, bit rot, dead engines (40 minutes)
	@KILN_CHAOS=1 $(DEV)/python -m pytest tests/chaos \
	  tests/steps/test_demo_and_train.py::test_an_interrupted_training_ends_in_the_same_weights

test-unit: $(WORK)/dev/.complete  ## run the unit tests alone
	@$(DEV)/python -m pytest tests/unit

check: $(WORK)/dev/.complete  ## lint, formatting and types
	@$(DEV)/ruff check
	@$(DEV)/ruff format --check
	@$(DEV)/mypy

pins: $(WORK)/dev/.complete  ## resolve every lock and base digest anew; shows what changed
	@$(DEV)/python -m scripts.refresh_pins

bench: $(WORK)/driver/.complete  ## time quantize against onnx2tf, and Kiln itself against dvc (half an hour)
	@$(WORK)/driver/bin/python -m scripts.bench_quantize
	@$(WORK)/driver/bin/python -m scripts.bench_nothing

bench-quality: $(WORK)/driver/.complete  ## compare ways to quantise: accuracy, cycles, size; of the demo, or DATA= and WEIGHTS= (half an hour)
	@$(WORK)/driver/bin/python -m scripts.bench_quality

bench-training: $(WORK)/driver/.complete  ## time epochs on photographs, DATA= and TASK=: as they are, and as the camera sees them
	@$(WORK)/driver/bin/python -m scripts.bench_training

help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-14s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "Settings: $(SETTINGS); V=1 shows the steps' logs"
	@echo "Of a release: $(RELEASE_SETTINGS)"
	@echo "Of a board: $(BOARD_SETTINGS)"

$(WORK)/driver/.complete: kiln.lock pyproject.toml scripts/bootstrap.sh $(call lost,$(WORK)/driver)
	@scripts/bootstrap.sh $(WORK)/driver kiln.lock

$(WORK)/dev/.complete: dev.lock pyproject.toml scripts/bootstrap.sh $(call lost,$(WORK)/dev) \
  | $(WORK)/driver/.complete
	@scripts/bootstrap.sh $(WORK)/dev dev.lock

.PHONY: model explain report release verify flash monitor targets doctor images gc clean test test-all chaos test-unit check pins bench bench-quality bench-training help lost
