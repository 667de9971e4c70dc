# syntax=docker/dockerfile:1
# Three images from one file (docker build --target NAME): `light` runs ingest, match and sweep and has no torch;
# `cpu` and `cuda` run the embed worker. PyPI's torch for x86-64 brings CUDA's libraries along and runs on the CPU,
# too, so `cuda` is `cpu` plus a C compiler and what the NVIDIA runtime looks for, and needs no CUDA base image.
ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV UV_CACHE_DIR=/var/cache/uv UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never VIRTUAL_ENV=/opt/venv
WORKDIR /src
COPY requirements/uv.lock requirements/
RUN python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements/uv.lock \
    && uv venv "$VIRTUAL_ENV"

# Dependencies before code: a change of code leaves the layers of gigabytes as they are.
FROM build AS light-packages
COPY requirements/light.lock requirements/
RUN --mount=type=cache,target=/var/cache/uv uv pip install --require-hashes -r requirements/light.lock

FROM build AS packages
COPY requirements/runtime.lock requirements/
RUN --mount=type=cache,target=/var/cache/uv uv pip install --require-hashes -r requirements/runtime.lock

FROM light-packages AS app
COPY . .
# The tool that builds it is pinned by its hash, too.
RUN --mount=type=cache,target=/var/cache/uv \
    uv build --wheel --require-hashes --build-constraints requirements/dev.lock --out-dir /dist \
    && uv pip install --no-deps --target /app /dist/*.whl

FROM ${PYTHON_IMAGE} AS runtime
RUN groupadd --gid 10001 dedup \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin dedup \
    && install --directory --owner dedup --group dedup /var/cache/listing-dedup
# The file system may be read-only: nothing is written but downloaded weights, into a volume at TORCH_HOME, and /tmp.
# Without SSL_CERT_FILE, psycopg's own OpenSSL looks for the system's authorities (sslrootcert=system) where none are.
ENV PATH=/app/bin:/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    TORCH_HOME=/var/cache/listing-dedup
WORKDIR /var/cache/listing-dedup
USER 10001:10001
ENTRYPOINT ["dedup"]
CMD ["--help"]

FROM runtime AS light
COPY --from=light-packages /opt/venv /opt/venv
COPY --from=app /app /app

FROM runtime AS cpu
COPY --from=packages /opt/venv /opt/venv
COPY --from=app /app /app

FROM cpu AS cuda
USER 0:0
# torch.compile builds a part of its launchers with the machine's C compiler, when the worker starts. The version is
# the one of the base image's Debian.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
USER 10001:10001
# What it builds is loaded from here, so /tmp must not be mounted noexec; there is no home to keep it in.
ENV TORCHINDUCTOR_CACHE_DIR=/tmp/torchinductor TRITON_CACHE_DIR=/tmp/triton
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility DEDUP_DEVICE=cuda
