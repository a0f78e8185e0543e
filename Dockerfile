# Patchioner on a CPU: docker build -t patchioner --build-arg TORCH_INDEX=URL .  (URL: PyTorch's CPU index, see docs/install.md)
# docker run --rm -v "$PWD:/data" patchioner caption /data/photo.jpg
FROM python:3.12-slim
ARG TORCH_INDEX=""
WORKDIR /src
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY patchioner patchioner
COPY memory_bank memory_bank
COPY decoders decoders
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch torchvision
RUN pip install --no-cache-dir .
ENTRYPOINT ["patchioner"]
