# `owl serve` in a container: docker build -t open-owl . && docker run -p 127.0.0.1:8000:8000 -v ./my-owl:/model:ro open-owl
# Another build of torch, for CPUs alone or another CUDA: --build-arg TORCH_INDEX=URL of the index that has it.
FROM python:3.12-slim

ARG TORCH_INDEX=""
WORKDIR /app
COPY constraints.txt .
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -c constraints.txt torch==2.13.0
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir -c constraints.txt ".[serve,video]" && useradd --create-home owl

USER owl
EXPOSE 8000
HEALTHCHECK --start-period=300s --interval=10s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
# In exec form, so that SIGTERM reaches the server, which then finishes its answers.
ENTRYPOINT ["owl", "serve", "/model", "--host", "0.0.0.0"]
CMD ["--served-name", "owl"]
