# Every command of a developer's day. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# One set of package flags for all commands (`cargo run` has it by `default-members`): other flags would unify features
# anew and build everything twice.
ALL := --locked --workspace
SAY := printf '\n==> %s\n'

RELEASE := python3 -B deploy/release

.PHONY: help tools build lint test crashes upgrade bench demo generate stacks release release-test reproduce deny workflows release-tools

help: ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

demo: tools ## the main job on an embedded cluster and AWS emulator; EXIT=1 ends it afterwards
	@$(SAY) "building the demo"
	cargo build $(ALL)
	@$(SAY) "running the demo"
	cargo run --locked --bin testbed -- demo $(if $(EXIT),--exit)

test: tools lint ## formatting, lints, unit and integration tests, generated files
	@$(SAY) "the control plane: about 15 minutes the first time, seconds after"
	cargo run --locked --bin testbed -- controlplane build
	@$(SAY) "unit and integration tests"
	cargo test $(ALL)
	@$(MAKE) --no-print-directory stacks
	@$(SAY) "all is well"

crashes: tools ## 300 rotations while the operator is killed at every write; takes a while
	@$(SAY) "killing the operator at every write"
	cargo test $(ALL) --test integration -- restart_crashes --include-ignored --nocapture

upgrade: tools ## test an upgrade from FROM=COMMIT and back: both running at once, and by Helm 3, Helm 4 and kubectl
	@if ! git cat-file -e "$(FROM)^{commit}" 2> /dev/null; then echo "There is no commit '$(FROM)' in this clone." \
		"Name one, as FROM=90b8dec; if the clone is shallow, run: git fetch --unshallow" >&2; exit 1; fi
	@$(SAY) "building $(FROM)"
	git worktree prune && rm -rf target/earlier && git worktree add --detach --force target/earlier $(FROM)
	cargo build $(ALL) --manifest-path target/earlier/Cargo.toml --target-dir target/earlier-build --bin keyturn
	@$(SAY) "running both"
	KEYTURN_EARLIER_CHART="$$PWD/target/earlier/charts/keyturn" KEYTURN_EARLIER_BIN="$$PWD/target/earlier-build/debug/keyturn" \
		cargo test $(ALL) --test integration -- two_versions there_and_back --include-ignored --nocapture

bench: tools ## the measurements, as a table and as JSON
	@$(SAY) "building the release"
	cargo build $(ALL) --release
	@$(SAY) "measuring"
	cargo run --locked --release --bin testbed -- bench

build: tools ## the binary, optimised: target/release/keyturn
	cargo build $(ALL) --release --bin keyturn

lint: tools ## formatting and lints
	@$(SAY) "formatting"
	cargo fmt --all --check
	@$(SAY) "lints"
	cargo clippy $(ALL) --all-targets -- -D warnings

generate: tools ## write the files that are made from code and from the chart
	UPDATE=1 cargo test $(ALL) --test chart -- fresh

release: tools release-tools ## everything that a release has, into dist/, in about an hour: VERSION=x.y.z
	$(RELEASE) build "$(VERSION)"

release-test: tools release-tools ## start what is in dist/ as a node would, and verify it as docs/verify.md says; wants root
	@$(SAY) "the control plane and the tools: about 30 minutes the first time, seconds after"
	cargo run --locked --bin testbed -- controlplane build
	$(RELEASE) tools
	@$(SAY) "the release in dist/"
	KEYTURN_RELEASE_TOOLS="$$($(RELEASE) tools)" cargo test $(ALL) --test integration -- release:: --include-ignored --nocapture

reproduce: tools release-tools ## build the release twice, in two folders, and compare every byte: VERSION=x.y.z
	@if [[ -n "$$(git status --porcelain)" ]]; then echo "Commit or remove what git status lists: the second folder has what is" \
		"committed." >&2; exit 1; fi
	$(RELEASE) build "$(VERSION)"
	git worktree prune && rm -rf target/again && git worktree add --detach --force target/again HEAD
	python3 -B target/again/deploy/release build "$(VERSION)"
	diff dist/SHA256SUMS target/again/dist/SHA256SUMS
	@$(SAY) "the same: $$(cat dist/image.digest)"

deny: tools ## bans, licences and sources of all dependencies, by cargo-deny
	$(RELEASE) deny

workflows: ## lint .github/workflows
	$(RELEASE) workflows

stacks: # Without cargo-deny, at least the bans that matter most: see deny.toml.
	@$(SAY) "banned crates"
	@for crate in ring openssl-sys native-tls hyper@0.14 serde_yaml; do \
		tree="$$(cargo tree $(ALL) --edges normal,build --invert "$$crate" 2>/dev/null)" || true; \
		if [[ -n "$$tree" ]]; then echo "$$crate is banned by deny.toml, and is used by:" >&2; echo "$$tree" >&2; exit 1; fi; \
	done

release-tools:
	@missing=(); \
	for tool in jq curl tar dpkg-deb; do command -v "$$tool" > /dev/null || missing+=("$$tool"); done; \
	python3 -c 'import ensurepip, venv' 2> /dev/null || missing+=(python3-venv); \
	if (( $${#missing[@]} )); then echo "Please install what is missing for a release, on Debian 12: apt install $${missing[*]}" >&2; exit 1; fi

tools:
	@missing=(); \
	for tool in cargo go cc make git python3; do command -v "$$tool" > /dev/null || missing+=("$$tool"); done; \
	if (( $${#missing[@]} )); then echo "Please install what is missing: $${missing[*]}. Rust: https://rustup.rs; Go 1.26 or newer: https://go.dev/dl;" \
		"the rest on Debian: apt install build-essential git python3." >&2; exit 1; fi
