# Every verb sets up what it needs: on a fresh machine `make train` or `make test` is the first command to type.

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
# uv, where one uses it, looks for wheels where pip is told to look.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)

READY := $(VENV)/.ready
TEST_ENV := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
PROTO_BASE ?= main

DOCKERFILES := services/geneval/Dockerfile services/geneval/mmdet/Dockerfile services/verifier/Dockerfile services/spatial/Dockerfile trainer/Dockerfile
SERVICES_TOKEN := secrets/services/token
TOKEN_FILE := secrets/client/token

.PHONY: setup train test test-ray mmdet test-mmdet compose compose-test compose-test-mmdet lint format audit sbom docs docs-serve serve bench bench-learning proto clean

setup: $(READY)  ## install everything into .venv

# torch comes first and pinned: without it, other packages would pull the newest build with its CUDA packages.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --progress-bar on torch==2.13.0
	$(BIN)/pip install --quiet --progress-bar on -c constraints.txt -e '.[dev]'
	touch $@

train: setup  ## start the GenEval service and fine-tune the miniature against it
	BIN=$(BIN) scripts/train_with_service.sh configs/train/miniature_counting.yaml $(ARGS)

test: setup lint  ## lint and test
	$(TEST_ENV) $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

test-ray: setup  ## faults of batch jobs on Ray: some minutes, and not part of `make test`
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev,ray,ray-serve]'
	$(TEST_ENV) $(BIN)/python -m pytest -m ray

mmdet:  ## build the environment of the official detector, .venv-mmdet: some ten minutes
	services/geneval/mmdet/build.sh .venv-mmdet

test-mmdet: mmdet  ## test the GenEval service's mmdet backend
	$(TEST_ENV) .venv-mmdet/bin/python -m pytest -m mmdet tests/geneval/test_geneval_mmdet.py

compose: setup $(TOKEN_FILE)  ## build the services' images, start them, score a picture with each, stop them
	@trap 'docker compose down' EXIT; \
	docker compose up --build --wait || { docker compose logs; exit 1; }; \
	export ASSAY_TOKEN_FILE=$(TOKEN_FILE); set -e; \
	$(BIN)/assay score docs/three_apples.png --class apple --count 3 --target localhost:$${ASSAY_PORT:-50051}; \
	$(BIN)/assay score docs/three_apples.png --prompt "a photo of three apples" --scorer orm \
		--target localhost:$${ASSAY_VERIFIER_PORT:-50054}; \
	$(BIN)/assay score docs/three_apples.png --relation apple "left of" umbrella \
		--target localhost:$${ASSAY_SPATIAL_PORT:-50055}

# Containers get the folders and files as they are: their user must be able to read them, other users of this machine
# are kept out by `secrets`.
$(SERVICES_TOKEN) secrets/grafana_password:
	mkdir -p -m 700 secrets && mkdir -p -m 755 $(@D)
	$(PYTHON) -c 'import secrets; print(secrets.token_urlsafe(32))' > $@.new
	chmod 444 $@.new && mv $@.new $@

$(TOKEN_FILE): | $(SERVICES_TOKEN)  # not made anew when the services are given further tokens
	mkdir -p -m 755 $(@D)
	cp $(SERVICES_TOKEN) $@.new && chmod 444 $@.new && mv $@.new $@

compose-test: setup  ## test the containers: needs Docker with its compose plugin, and takes minutes
	$(TEST_ENV) $(BIN)/python -m pytest -m 'docker and not slow' -rs --timeout=3600 tests/test_containers.py

compose-test-mmdet: setup  ## test that the image with the official detector is built: some fifteen minutes of CPU time more
	$(TEST_ENV) $(BIN)/python -m pytest -m 'docker and slow' -rs --timeout=9000 tests/test_containers.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint $(DOCKERFILES)
	@export VENV=$(VENV); if scripts/compose.sh version > /dev/null; then scripts/compose.sh --profile '*' config --quiet && \
	scripts/compose.sh -f docker-compose.yml -f docker-compose.tls.yml --profile '*' config --quiet; \
	else echo 'the files of docker compose are not checked'; fi

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

audit: setup  ## check .venv against the lock, and look every pinned version up in PyPI's advisories, if they can be reached
	scripts/supply_chain.sh audit

sbom: setup  ## what .venv is made of: sbom.json, in CycloneDX's form
	scripts/supply_chain.sh sbom

docs: setup  ## build the documentation into site/; a broken link or a page left out stops it
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: setup  ## show the documentation at localhost:8000 while one writes
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

serve: setup  ## serve GenEval on localhost
	$(BIN)/assay serve geneval

bench: setup  ## compare side by side, and print ratios
	$(BIN)/python benchmarks/null_scorer.py
	$(BIN)/python benchmarks/slow_replica.py
	$(BIN)/python benchmarks/batch_engine.py
	$(BIN)/python benchmarks/image_generation.py
	$(BIN)/python benchmarks/geneval_evaluation.py
	$(BIN)/python benchmarks/verifier.py
	$(BIN)/python benchmarks/spatial_evaluation.py
	$(BIN)/python benchmarks/training_throughput.py --speeds 1

bench-learning: setup  ## minutes of training to the same gain, algorithm by algorithm: some hours, and it goes on where it was stopped
	$(BIN)/python benchmarks/learning_efficiency.py

proto: setup  ## regenerate the stubs, lint the contract, check that it breaks nobody
	$(BIN)/python proto/generate.py
	$(BIN)/python proto/check.py --against $(PROTO_BASE)

clean:
	rm -rf $(VENV) runs build *.egg-info site
