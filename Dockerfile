# The image of the service on every cluster, and the target `standalone` with a database inside; scripts/build-image builds them.
#
# BASE is an argument so that the image can be built where no registry is at hand (scripts/check-image does), and so that
# a release can pin it by digest: --build-arg BASE=python:3.13-slim@sha256:... . The default is the weaker pin, a tag:
# a digest that nobody has looked up would be worse than none.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
# pip runs from an environment of its own and installs into the one that is shipped, so that pip itself is not shipped.
# /data: where a volume of one machine has its owner from.
RUN python3 -m venv /build && python3 -m venv --without-pip /opt/user-service && mkdir /data
WORKDIR /source
COPY requirements/build.txt requirements/production.txt requirements/
RUN /build/bin/python -m pip install --no-cache-dir --require-hashes --only-binary=:all: -r requirements/build.txt \
 && /build/bin/python -m pip --python /opt/user-service/bin/python install --no-cache-dir --no-compile \
      --require-hashes --only-binary=:all: -r requirements/production.txt
COPY pyproject.toml README.md LICENSE ./
COPY func func
# unchecked-hash: the sources never change in an image, so Python need not look at them to trust their bytecode. -f: pip has
# left some bytecode with times. One process and one seed: two builds have the same bytes.
RUN /build/bin/python -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /build/bin/python -m pip --python /opt/user-service/bin/python install --no-cache-dir --no-compile --no-index \
      --no-deps /wheels/*.whl \
 && PYTHONHASHSEED=0 /opt/user-service/bin/python -m compileall -q -f -j 1 --invalidation-mode unchecked-hash \
      /opt/user-service/lib

FROM build AS build-standalone
COPY requirements/standalone.txt requirements/
RUN /build/bin/python -m pip --python /opt/user-service/bin/python install --no-cache-dir --no-compile \
      --require-hashes --only-binary=:all: -r requirements/standalone.txt \
 && PYTHONHASHSEED=0 /opt/user-service/bin/python -m compileall -q -f -j 1 --invalidation-mode unchecked-hash \
      /opt/user-service/lib

FROM ${BASE} AS runtime
COPY --from=build --chown=1001:1001 /data /data
ENV PATH=/opt/user-service/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="user-service" \
      org.opencontainers.image.description="The user directory of a microservice backend" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
USER 1001:1001
EXPOSE 3002
# For plain Docker and Compose; Kubernetes and Knative have probes of their own and ignore it.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
  CMD ["/opt/user-service/bin/python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('PORT', '3002') + '/api/health/live', timeout=2)"]
ENTRYPOINT ["/opt/user-service/bin/user-service"]
CMD ["serve"]

# The target `standalone`: the same with a PostgreSQL of its own, for trying out and for small installations on one machine.
# Its volume has the database and, unless they are given, the keys.
FROM runtime AS standalone
COPY --from=build-standalone --chown=0:0 /opt/user-service /opt/user-service
ENV DATA_DIR=/data
VOLUME /data

# The last stage is what a build without a target makes.
FROM runtime AS service
COPY --from=build --chown=0:0 /opt/user-service /opt/user-service
