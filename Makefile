# make run     boots a Linux guest to its shell (without a terminal: a short demonstration)
# make test    runs the tests
# make race    measures boot time beside crun, runc and QEMU microvm, on the deterministic clocks of both nested machines
#              (CORACLE_NESTED=amd or =intel for one of them): into target/race/amd/ and target/race/intel/
# make test-processors   tries Coracle on processors that Bochs emulates, and writes the table of docs/processors.md
# make torture kills guests, commands and machines while they work, and does thousands of things in a row (ROUNDS=N, CUTS=N, SEED=N)
# make check   checks formatting, lints, documentation and dependencies
# make guest   builds the built-in guest that coracle carries
# make fuzz    runs each fuzz target for a minute (FUZZ_SECONDS=N for longer)
# make fuzz-seeds   runs each fuzz target on its seeds and on a thousand inputs made from them
# make bench   measures start-up time on this host, and the boot budget
# make bench-boot   measures the boot budget: each phase of a boot on both deterministic clocks (CORACLE_NESTED=amd or
#              =intel for one of them), beside containers
# make bench-program   measures a program in a guest, from the start of coracle to the program's end, beside crun
# make bench-steady   measures what the built-in guest's kernel does for programs, beside Debian's
# make bench-disk   measures what a disk costs, beside QEMU microvm and fio
# make bench-vsock  measures what a socket between guest and host costs, beside QEMU microvm with the host kernel's vhost
#
# Each first installs what is missing. What was built before is not built again.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

say = @printf '%s\n' '--- $(1)' >&2

# The kernel, the crates and the nested machine's packages are built and fetched at the same time.
export CARGO_TARGET_DIR := $(CURDIR)/target
PARALLEL := $(MAKE) --no-print-directory --jobs=3

.PHONY: help run test test-processors race torture check guest fuzz fuzz-seeds bench bench-boot bench-program bench-steady bench-disk bench-vsock build
.PHONY: prepared crates nested formats programs release tests

help:
	@sed -n 's/^# \?//p' Makefile | sed '/^$$/q'

run: build
	@tools/run

# The trials with Linux guests have both vendors' processors. Most other tests wait for something most of the time.
test: export NESTED_MACHINES := amd intel
test: export RUST_TEST_THREADS = $(shell echo $$((2 * $$(nproc))))
test: prepared
	@$(PARALLEL) release tests formats programs
	$(call say,running the tests of this host and then those with Linux guests)
	@cargo test --quiet --workspace

test-processors: build
	@tools/test-processors

race: build
	@tools/race

# Four rounds and two power cuts of each kind of disk. A seed repeats the moments at which coracle is killed.
ROUNDS ?= 36
CUTS ?= 18
SEED ?= $(shell date +%s)
torture: prepared
	@$(PARALLEL) release tests
	cargo test --quiet --test linux -- --torture $(ROUNDS) $(CUTS) $(SEED)
	CORACLE_LINUX_TESTS=full cargo test --quiet --test linux -- load::
	CORACLE_LINUX_TESTS=full cargo test --quiet --test linux -- killed::
	CORACLE_LINUX_TESTS=full cargo test --quiet --test linux -- thousands::
	CORACLE_LINUX_TESTS=full cargo test --quiet --test linux -- sockets::as_many
	cargo test --quiet --workspace --test kvm -- --ignored kill_points:: thousands::

# With the guest there already, `coracle` is checked and compiled as it is used.
check: guest
	cargo fmt --all --check
	cargo clippy --quiet --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --quiet --workspace --no-deps --document-private-items
	@tools/one-of-each-crate
	@tools/crate-licenses --check

FUZZ_SECONDS ?= 60
fuzz:
	@fuzz/run --seconds $(FUZZ_SECONDS)

fuzz-seeds:
	@fuzz/run --seeds

bench: build
	cargo bench --quiet --bench start
	cargo bench --quiet --bench boot

bench-boot: build
	cargo bench --quiet --bench boot

bench-program: build
	cargo bench --quiet --bench program

bench-steady: build
	cargo bench --quiet --bench steady

bench-disk: build
	cargo bench --quiet --bench disk

bench-vsock: build
	cargo bench --quiet --bench vsock

build: prepared
	@$(PARALLEL) release

release:
	@cargo build --release --quiet

tests:
	@cargo test --quiet --workspace --no-run

guest:
	@guest-images/build

prepared:
	@$(PARALLEL) guest crates nested

# Without the guest inside, while that is still being built: what comes after compiles one crate.
crates:
	@tools/crates

# Only a host that cannot run Linux guests needs a nested machine.
nested:
	@tools/hardware-virtualization || tests/nested/prepare $(NESTED_MACHINES)

formats:
	@guest-images/build formats

# Programs that tests run. A test fails where its program is missing.
programs:
	@guest-images/need acl apache2-utils docker-registry openssl qemu-utils skopeo umoci
