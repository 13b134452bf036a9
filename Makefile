# `make help` lists what there is. Every target does its own set-up: it installs what is missing
# on a Debian machine, says so in one line, and is silent the next time.

SHELL := /bin/bash
.DEFAULT_GOAL := module

TARGET_DIR := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
# Finds a toolchain that rustup has just put into the home directory.
CARGO := . scripts/rust-env.sh && cargo

.PHONY: help
help: ## lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: module
module: ## builds libflashsale.so, the Redis module (this is what plain `make` does)
	@scripts/setup.sh build
	@$(CARGO) build --release --locked -p flashsale-module
	@echo "built $(abspath $(TARGET_DIR))/release/libflashsale.so"
	@echo "try   redis-server --loadmodule $(abspath $(TARGET_DIR))/release/libflashsale.so"

.PHONY: build
build: ## builds the module and the `flashsale` program, optimised
	@scripts/setup.sh build
	@$(CARGO) build --release --locked -p flashsale-module -p flashsale-edge
	@echo "built $(abspath $(TARGET_DIR))/release/libflashsale.so and $(abspath $(TARGET_DIR))/release/flashsale"

.PHONY: demo
demo: ## shows a flash sale from start to end; KEEP=1 leaves it running to play with
	@scripts/setup.sh demo
	@$(CARGO) build --release --locked -p flashsale-module -p flashsale-edge
	@$(abspath $(TARGET_DIR))/release/flashsale demo $(if $(filter-out 0 no,$(KEEP)),--keep)

.PHONY: test
test: ## formats, lints, builds and runs every test, on every server version
	@scripts/test.sh all

.PHONY: test-faults
test-faults: ## only the tests that kill, stop and starve servers
	@scripts/test.sh faults

.PHONY: nightly
nightly: ## the tests with many more random cases, and those too long for `make test`
	@scripts/test.sh nightly

.PHONY: audit
audit: ## licences, banned crates, sources and known vulnerabilities of the dependencies
	@scripts/audit.sh

.PHONY: bench
bench: ## what each command costs beside DECR and a Lua script, what millions of holds cost, what shards bring
	@scripts/bench.sh commands
	@scripts/bench.sh scale
	@scripts/bench.sh sharding

.PHONY: bench-edge
bench-edge: ## what the edge costs beside nginx and bare Pingora, on one core each
	@scripts/bench.sh edge

.PHONY: fuzz
fuzz: ## fuzzes parsers, effects, snapshots and commands, FUZZ_SECONDS=60 each
	@scripts/fuzz.sh

.PHONY: valgrind
valgrind: ## sends thousands of mixed commands to a server under valgrind's memcheck
	@scripts/valgrind.sh

.PHONY: clean
clean: ## removes what was built; downloaded tools and servers stay in .tools
	@$(CARGO) clean
