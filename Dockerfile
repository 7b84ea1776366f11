# One image for web, worker and inference; docker-compose.yml says which command each runs.
#   docker build --build-arg TORCH_INDEX=<PyTorch's CPU index> .     # without a GPU: no CUDA, gigabytes less
FROM python:3.12-slim

ARG TORCH_INDEX=""
WORKDIR /seesae

# PyTorch first, in a layer of its own: it is the largest and changes least.
COPY constraints.txt ./
RUN if [ -n "$TORCH_INDEX" ]; then \
        pip install --no-cache-dir --constraint constraints.txt torch --index-url "$TORCH_INDEX"; \
    else \
        pip install --no-cache-dir --constraint constraints.txt torch; \
    fi

COPY pyproject.toml README.md LICENSE NOTICE ./
COPY app app
COPY sae_core sae_core
COPY templates templates
COPY static static
COPY migrations migrations
RUN pip install --no-cache-dir --constraint constraints.txt . \
    && useradd --create-home --uid 1000 seesae \
    && mkdir /data && chown seesae /data

USER seesae
ENV SEESAE_HOME=/data
VOLUME /data
ENTRYPOINT ["seesae"]
CMD ["--help"]
