# Containers for Beam workers.
#
#   docker build --target prepare -t REGISTRY/shardbox:VERSION .           ingest and diff: no TensorFlow, no torch
#   docker build --target predict -t REGISTRY/shardbox:VERSION-predict .   predict: torch as well
#
# Beam's boot program, in its own image, starts the workers on Dataflow, and in the pools of Flink and Spark. Its version
# is that of apache-beam in requirements.lock (a test holds the two together).

FROM apache/beam_python3.11_sdk:2.77.0 AS beam

FROM python:3.11-slim-bookworm AS prepare
ARG EXTRAS=prepare,cloud
COPY --from=beam /opt/apache/beam /opt/apache/beam
WORKDIR /opt/shardbox
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY dataflow dataflow
COPY tfds_builders tfds_builders
COPY trainers trainers
RUN pip install --no-cache-dir --constraint requirements.lock ".[${EXTRAS}]"
# Decoding has threads of its own, one worker process for each core.
ENV OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
ENTRYPOINT ["/opt/apache/beam/boot"]

FROM prepare AS predict
ARG EXTRAS=prepare,cloud
RUN pip install --no-cache-dir --constraint requirements.lock ".[${EXTRAS},train]"
