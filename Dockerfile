# One node of logbroker. Data lives in the volume /data; the process is not root.
#
#   docker build -t logbroker .
#   docker run -v logbroker:/data -p 4100:4100 logbroker serve \
#       --set listeners.client.host=0.0.0.0 --set listeners.client.insecure=true
#
# Without `insecure` a listener that is open to the network needs certificates and tokens: mount them, with a
# configuration file at /etc/logbroker/logbroker.toml.

FROM python:3.13-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY logbroker logbroker
COPY clients/python/logbroker_client clients/python/logbroker_client
RUN python -m venv /opt/logbroker \
    && /opt/logbroker/bin/pip install --no-cache-dir --disable-pip-version-check '.[speed]'

FROM python:3.13-slim
# A fixed number, so that the owner of a volume can be set from outside.
RUN groupadd --system --gid 4100 logbroker \
    && useradd --system --uid 4100 --gid logbroker --home-dir /data --no-create-home logbroker \
    && install --directory --owner=logbroker --group=logbroker --mode=0700 /data
COPY --from=build /opt/logbroker /opt/logbroker
ENV PATH=/opt/logbroker/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    LOGBROKER_NODE__DATA_DIR=/data \
    LOGBROKER_LOG__FORMAT=json \
    LOGBROKER_HEALTH_URL=http://127.0.0.1:4101/livez
USER logbroker
WORKDIR /data
VOLUME /data
# client, admin, peer
EXPOSE 4100 4101 4102
# The default; what a node has to finish is bounded by timeouts.drain_ms, so let it: docker stop --time 20.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(os.environ['LOGBROKER_HEALTH_URL'], timeout=2)"]
ENTRYPOINT ["logbroker"]
CMD ["serve"]
