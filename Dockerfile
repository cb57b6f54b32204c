# mcscore in a container. The working folder is /data: mount yours there.
#
#   docker build --target cpu -t mcscore:cpu .
#   docker build --target cuda -t mcscore:cuda .          # runs with --gpus all; the driver is the host's
#   docker run --rm -v "$PWD:/data" mcscore:cpu score pool.zarr --model net.py:build --weights net.safetensors --out runs/a
#
# Build arguments: PYTHON; EXTRAS, which extras of mcscore are installed; CPU_INDEX and CUDA_INDEX, where torch comes from.
# Versions are those of constraints.txt, which the tests passed with.

ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS wheel
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim-bookworm AS base
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 1000 mcscore && mkdir /data && chown mcscore /data
COPY constraints.txt /constraints.txt

# torch comes first, from its own index, so that nothing else decides which build of it is installed.
FROM base AS cpu
ARG CPU_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=images,label,remote,report
RUN pip install --index-url ${CPU_INDEX} --constraint /constraints.txt torch
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --constraint /constraints.txt "mcscore[${EXTRAS}] @ file://$(ls /wheels/*.whl)"
USER 1000
WORKDIR /data
ENTRYPOINT ["mcscore"]
CMD ["--help"]

# torch brings CUDA's libraries and Triton. Triton compiles the launcher of each kernel on the machine, so a C compiler stays.
FROM base AS cuda
ARG CUDA_INDEX=https://download.pytorch.org/whl/cu130
ARG EXTRAS=images,label,remote,report
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN pip install --index-url ${CUDA_INDEX} --constraint /constraints.txt torch
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --constraint /constraints.txt "mcscore[${EXTRAS}] @ file://$(ls /wheels/*.whl)"
USER 1000
WORKDIR /data
ENTRYPOINT ["mcscore"]
CMD ["--help"]
