ARG BASE=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

# Packages. The network's settings, if the driver brings any, stay in this stage.
FROM $BASE AS builder
ARG BUILD=by-hand
LABEL org.kiln=builder org.kiln.build=$BUILD
WORKDIR /build
COPY kiln.lock docker/train.lock network* ./
RUN set -a && if [ -f settings.sh ]; then . ./settings.sh; fi && \
    sed -n '/^uv==/,/[^\\]$/p' kiln.lock >uv.lock && \
    python3 -m venv tools && \
    tools/bin/pip install --no-cache-dir --no-deps --only-binary :all: --require-hashes \
      --requirement uv.lock && \
    tools/bin/uv venv --no-project --python "$(command -v python3)" /opt/kiln && \
    tools/bin/uv pip install --python /opt/kiln --no-cache --no-deps --only-binary :all: \
      --require-hashes --index-strategy unsafe-best-match --compile-bytecode \
      --requirement train.lock

# What steps run in, without their code, so that a change of code installs nothing again.
FROM $BASE AS environment
COPY --from=builder /opt/kiln /opt/kiln
RUN echo 'kiln:x:10001:' >>/etc/group && \
    echo 'kiln:x:10001:10001::/tmp:/usr/sbin/nologin' >>/etc/passwd && \
    install -d -o 10001 -g 10001 /job /job/state
ENV PATH=/opt/kiln/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/opt/kiln-stages
USER 10001:10001
WORKDIR /job
ENTRYPOINT ["python", "-m"]

FROM environment
COPY stages/*.py /opt/kiln-stages/stages/
COPY stages/results /opt/kiln-stages/stages/results
COPY stages/train /opt/kiln-stages/stages/train
