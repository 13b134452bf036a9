# Two stages: the first compiles, the second holds only what runs.
#
#   docker build -t flashsale .            (or: buildah build -t flashsale .)
#
#   docker run --rm -p 6379:6379 flashsale                               Redis with the module
#   docker run --rm -p 8080:8080 -v ./edge.toml:/etc/flashsale/edge.toml:ro flashsale \
#       flashsale serve --config /etc/flashsale/edge.toml                the edge proxy
#   docker run --rm flashsale flashsale --help                           the command line

# --- build --------------------------------------------------------------------------------------
# Debian 12 in both stages: what is linked against its C library here runs there, and on newer ones.
ARG RUST_IMAGE=docker.io/library/rust:1.95-bookworm
ARG RUN_IMAGE=docker.io/library/debian:bookworm-slim
FROM ${RUST_IMAGE} AS build

# cmake for Pingora's zlib-ng; libclang for the bindings to the Redis module API.
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake libclang-dev pkg-config \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY core core
COPY redis-module redis-module
COPY edge-proxy edge-proxy
COPY examples examples
# A member of the workspace, so cargo wants to see it; nothing of it is compiled here.
COPY tests tests

# The caches make a second build quick and stay out of the image. jemalloc runs where pages are no larger than it was built
# for, and ARM kernels have pages of up to 64 kB.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    if [ "$(uname -m)" = aarch64 ]; then export JEMALLOC_SYS_WITH_LG_PAGE=16; fi \
    && cargo build --release --locked -p flashsale-module -p flashsale-edge \
    && mkdir /out \
    && cp target/release/libflashsale.so target/release/flashsale /out/ \
    && strip --strip-debug /out/libflashsale.so /out/flashsale

# --- run ----------------------------------------------------------------------------------------
FROM ${RUN_IMAGE}

# Certificates let webhooks go to https.
RUN apt-get update \
    && apt-get install -y --no-install-recommends redis-server redis-tools ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --no-create-home flashsale \
    && install -d -o flashsale -g flashsale /data

COPY --from=build /out/libflashsale.so /usr/lib/redis/modules/libflashsale.so
COPY --from=build /out/flashsale /usr/bin/flashsale

USER flashsale
WORKDIR /data
VOLUME /data
EXPOSE 6379 8080

# Orders are promises, so they are on disk before they are acknowledged, and Redis refuses to grow
# beyond its memory rather than evict a sale. `protected-mode no`: the port is reached from outside
# the container only if you publish it; do that in private networks only, or set a password.
CMD ["redis-server", \
     "--loadmodule", "/usr/lib/redis/modules/libflashsale.so", \
     "--dir", "/data", \
     "--appendonly", "yes", "--appendfsync", "always", \
     "--maxmemory-policy", "noeviction", \
     "--protected-mode", "no"]
