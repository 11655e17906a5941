# ActaDB in a container:
#
#   docker build -t actadb .
#   docker run -p 9090:9090 -v actadb:/data actadb
#
# Anyone who reaches the port may read and write: the image listens beyond loopback without a
# password (--allow-unauthenticated below). Publish the port to loopback only, with
# -p 127.0.0.1:9090:9090, or set a password, which clients must then send:
#
#   docker run -p 9090:9090 -v actadb:/data -e ACTADB_AUTH__PASSWORD=secret actadb
#
# Every key of config/default.toml can be set like that (ACTADB_SEGMENT__SIZE_BYTES=…), or in a
# file (`docker run … actadb --config /etc/actadb.toml`). The environment wins over the file, and
# flags win over the environment: client address and directory are flags below, so to change them
# put other flags in with --entrypoint. A password holds in spite of --allow-unauthenticated.
# Metrics and health are served to the container alone unless
# ACTADB_NETWORK__ADMIN_ADDRESS=0.0.0.0:9091 is set.

FROM rust:1.95-slim-bookworm AS builder
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
COPY benches benches
COPY crates crates
RUN cargo build --release --locked --package actadb-server

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --no-create-home --home-dir /data actadb \
    && mkdir /data \
    && chown actadb:actadb /data
COPY --from=builder /build/target/release/actadb /usr/local/bin/actadb
COPY LICENSE /usr/share/doc/actadb/LICENSE
USER actadb
WORKDIR /data
VOLUME /data
EXPOSE 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s \
    CMD actadb ping ${ACTADB_AUTH__PASSWORD:+--password "$ACTADB_AUTH__PASSWORD"}
ENTRYPOINT ["actadb", "--allow-unauthenticated", "--client-address", "0.0.0.0:9090", \
    "--dir", "/data"]
