# Containers for Beam workers.
#
#   docker build --target prepare -t REGISTRY/shardbox:VERSION .           ingest and diff: no TensorFlow, no torch
#   docker build --target predict -t REGISTRY/shardbox:VERSION-predict .   predict: torch as well, and no TensorFlow
#
# Beam's boot program, in its own image, starts the workers on Dataflow, and in the pools of Flink and Spark. Its version
# is that of apache-beam in requirements.lock (a test holds the two together).

FROM apache/beam_python3.11_sdk:2.77.0 AS beam
# The source of Beam, which pip has from elsewhere.
RUN ["rm", "-rf", "/opt/apache/beam/tars"]

FROM python:3.11-slim-bookworm AS worker
COPY --from=beam /opt/apache/beam /opt/apache/beam
# Decoding has threads of its own, one worker process for each core. A worker has the packages of the image, and makes no
# environment on top of them as it starts, which takes as long as all the rest of its start.
ENV OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1
ENTRYPOINT ["/opt/apache/beam/boot"]

FROM python:3.11-slim-bookworm AS sources
WORKDIR /opt/shardbox
COPY pyproject.toml requirements.lock README.md LICENSE trim_packages.sh ./
COPY dataflow dataflow
COPY tfds_builders tfds_builders
COPY trainers trainers

FROM sources AS prepare-packages
ARG EXTRAS=prepare,cloud
RUN pip install --no-cache-dir --prefix=/packages --constraint requirements.lock ".[${EXTRAS}]" \
 && sh trim_packages.sh /packages

FROM worker AS prepare
COPY --from=prepare-packages /packages /usr/local

FROM sources AS predict-packages
ARG EXTRAS=prepare,cloud,predict
# https://download.pytorch.org/whl/cpu has torch without the libraries of CUDA.
ARG PIP_EXTRA_INDEX_URL
RUN pip install --no-cache-dir --prefix=/packages --constraint requirements.lock ".[${EXTRAS}]" \
 && sh trim_packages.sh /packages

FROM worker AS predict
# torch wants a newer one.
RUN pip uninstall --yes setuptools
COPY --from=predict-packages /packages /usr/local
