# The job runner. docker build -t streamsample . && docker run -v ./jobs:/jobs streamsample run /jobs/job.yaml
ARG PYTHON_VERSION=3.13

FROM python:${PYTHON_VERSION}-slim AS build
# numba's cache is keyed by the CPU that it compiled for, so kernels are made for a CPU that every host has. These three must be the
# same below, or every container compiles again at its start.
ENV NUMBA_CPU_NAME=generic \
    NUMBA_CPU_FEATURES="" \
    NUMBA_CACHE_DIR=/var/cache/streamsample
WORKDIR /build
RUN python -m venv /opt/streamsample
COPY requirements-image.lock ./
RUN /opt/streamsample/bin/pip install --no-cache-dir --require-hashes --no-deps -r requirements-image.lock
COPY pyproject.toml README.md LICENSE ./
COPY configs ./configs
COPY streamsample ./streamsample
RUN /opt/streamsample/bin/pip install --no-cache-dir --no-deps --no-build-isolation .
WORKDIR /
RUN /opt/streamsample/bin/python -m streamsample.runtime.warmup

FROM python:${PYTHON_VERSION}-slim
ENV NUMBA_CPU_NAME=generic \
    NUMBA_CPU_FEATURES="" \
    NUMBA_CACHE_DIR=/var/cache/streamsample \
    PATH=/opt/streamsample/bin:$PATH \
    PYTHONUNBUFFERED=1
RUN useradd --uid 10001 --create-home --home-dir /var/lib/streamsample streamsample
COPY --from=build /opt/streamsample /opt/streamsample
COPY --from=build --chown=10001:10001 /var/cache/streamsample /var/cache/streamsample
COPY configs /jobs
WORKDIR /var/lib/streamsample
USER 10001:10001
EXPOSE 9464
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9464/livez', timeout=4)"]
ENTRYPOINT ["streamsample"]
CMD ["--help"]
